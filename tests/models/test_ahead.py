"""What is said and when: two heads, of which the second one decides right behind the last token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from s2s.models.ahead import HOLD_STEPS, Ahead, Clock
from s2s.models.duplex import DuplexConfig, DuplexModel
from s2s.streams import Stream, StreamLayout
from tests.tiny import SMALL_SPEC, same_controls, tiny_layout, tiny_model, tiny_step

VOCAB = 3
PAD = VOCAB


def decided(ahead: Ahead, state: object, favourite: int, due: bool, clock: Clock | None = None) -> int:
    """The id of a step whose second head favours a token, and whose first one wants some token or none."""
    hidden = torch.nn.functional.one_hot(torch.tensor([favourite]), VOCAB + 2).float()
    logits = torch.tensor([[5.0 if due else 0.0, 1.0, 1.0, 3.0, 0.0]])
    ids = ahead.decide(hidden, logits, state, clock).argmax(dim=1)  # type: ignore[arg-type]
    ahead.follow(ids, hidden, state)  # type: ignore[arg-type]
    return int(ids)


class FixedClock:
    """A clock by which it is always time, or never."""

    def __init__(self, due: bool, stopped: bool):
        self.stopped, self._due = torch.tensor([stopped]), torch.tensor([due])

    def due(self, token: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        return self._due


@pytest.fixture
def ahead() -> Ahead:
    return Ahead(nn.Identity(), VOCAB)


def test_what_was_decided_behind_the_last_token_stands(ahead: Ahead) -> None:
    state = ahead.init_state(1, torch.device("cpu"))
    wishes = ((2, True), (1, False), (2, False), (2, True), (0, False), (1, True))
    assert [decided(ahead, state, *wish) for wish in wishes] == [2, PAD, PAD, 1, PAD, 0]


def test_by_a_clock_a_reply_goes_on_when_it_is_due_as_long_as_there_is_more(ahead: Ahead) -> None:
    def said(*wishes: tuple[int, bool, bool, bool]) -> list[int]:
        """Favourite of the second head, what the first one and the clock want, whether the agent has stopped."""
        state, found = ahead.init_state(1, torch.device("cpu")), []
        for favourite, due, by_clock, stopped in wishes:
            found.append(decided(ahead, state, favourite, due, FixedClock(by_clock, stopped)))
        return found

    yes, no, over = True, False, PAD + 1
    assert said((2, no, yes, no), (2, yes, no, no)) == [PAD, 2], "the beginning is for the first head to decide"
    assert said((2, yes, no, no), (1, yes, no, no), (0, no, yes, no)) == [2, PAD, 1], "then only the clock counts"
    assert said((2, yes, no, no), (over, no, yes, no), (0, yes, no, no)) == [2, PAD, 0], "and again behind the end"
    assert said((2, yes, no, no), (1, no, yes, yes), (0, yes, no, yes)) == [2, PAD, 0], "or where the agent broke off"


def test_a_token_comes_when_the_first_head_wants_one(ahead: Ahead) -> None:
    state = ahead.init_state(1, torch.device("cpu"))
    assert [decided(ahead, state, 2, due) for due in (True, False, True, True)] == [2, PAD, 2, 2]


def test_behind_a_pause_it_is_decided_anew(ahead: Ahead) -> None:
    for pause, expected in ((HOLD_STEPS - 1, 1), (HOLD_STEPS, 2)):
        state = ahead.init_state(1, torch.device("cpu"))
        assert decided(ahead, state, 0, True) == 0
        assert [decided(ahead, state, 1, False) for _ in range(pause)] == [PAD] * pause
        assert decided(ahead, state, 2, True) == expected


def test_who_has_been_in_doubt_for_long_begins(ahead: Ahead) -> None:
    def begun(*chances: float, clock: Clock | None = None) -> int | None:
        """The step in which a reply begins, of steps in each of which one would begin with this chance."""
        state = ahead.init_state(1, torch.device("cpu"))
        for step, chance in enumerate(chances):
            odds = torch.tensor([[chance, 1e-9, 1e-9, 1 - chance, 1e-9]]).log()
            ids = ahead.decide(torch.zeros(1, VOCAB + 2), odds, state, clock)
            ids = ids.argmax(dim=1)
            ahead.follow(ids, torch.zeros(1, VOCAB + 2), state)
            if int(ids) < VOCAB:
                return step
        return None

    waits = FixedClock(False, False)
    assert begun(0.3, 0.6, clock=waits) == 1, "who is sure begins at once"
    steps = begun(*[0.3] * 40, clock=waits)
    assert steps is not None and 2 < steps < 8
    assert begun(*[0.3] * (steps - 1), *[0.01] * 30, *[0.3] * (steps - 1), clock=waits) is None, "doubts are forgotten"
    assert begun(*[0.1] * 200, clock=waits) is None, "and small ones do not count"
    assert begun(*[0.3] * 40) is None, "without a clock the first head has the times of words, too"


def test_a_reply_that_was_in_doubt_is_not_begun_twice(ahead: Ahead) -> None:
    state, clock = ahead.init_state(1, torch.device("cpu")), FixedClock(False, False)
    state.doubt.fill_(9.0)
    assert decided(ahead, state, VOCAB + 1, False, clock) < VOCAB, "a reply of one token"
    assert [decided(ahead, state, VOCAB + 1, False, clock) for _ in range(5)] == [PAD] * 5


def test_the_step_writes_what_its_second_head_favours() -> None:
    step = tiny_step(SMALL_SPEC, ahead=True)
    assert step.model.ahead is not None
    with torch.no_grad():
        for head, favourite in ((step.model.text_heads["agent_text"], 4), (step.model.ahead, 7)):
            head.weight.zero_()
            head.weight[favourite] = 1e-3
        step.model.text_heads["agent_text"].weight[step.model.layout.stream("agent_text").pad_id] = -1.0
    state, controls = step.init_state(2), same_controls(2)
    said = [step(torch.randn(2, 1, step.step_size), state, controls).text["agent_text"] for _ in range(12)]
    vocab = step.model.layout.stream("agent_text").vocab_size
    words = [int(i) for ids in said for i in ids if i < vocab]
    assert words and 4 not in words, "the first head says when, not what"


def test_only_a_text_with_times_can_be_looked_ahead_in() -> None:
    config = tiny_model(tiny_layout(SMALL_SPEC)).config
    with pytest.raises(ValueError, match="ahead needs a stream 'agent_text' with times"):
        replace(config, ahead=True, unread=("agent_text",), untimed=("agent_text",))
    heard = StreamLayout((Stream("user", 5, (0, 0), "hear"), Stream("agent", 5, (0, 0), "speak")))
    with pytest.raises(ValueError, match="ahead needs a stream"):
        DuplexModel(DuplexConfig(layout=heard, ahead=True))
