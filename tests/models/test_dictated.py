"""The agent says the words it is given, in order, whenever the model would write something."""

from __future__ import annotations

from itertools import chain, repeat

import pytest
import torch
from torch import Tensor

from s2s.models.dictated import MAX_TOKENS, DictatedStep, DictationState, Pace, dictate, is_done
from s2s.models.step import Step
from s2s.models.traced import TracedStep
from tests.tiny import SMALL_SPEC, same_controls, tiny_codec, tiny_layout, tiny_model

LAYOUT = tiny_layout(SMALL_SPEC)
PAD = LAYOUT.stream("agent_text").pad_id
WORDS = [[3, 1], [7], [2, 5, 2]]
TOKENS = [3, 1, 7, 2, 5, 2]


def dictated_step(pace: Pace | None = None, pad: float = 0.0) -> DictatedStep:
    """Args: pad: added to the model's liking for silence."""
    step = DictatedStep(tiny_codec(SMALL_SPEC), tiny_model(LAYOUT), pace=pace)
    head = step.model.text_heads["agent_text"]
    head.register_forward_hook(lambda module, inputs, logits: logits + pad * (torch.arange(logits.shape[-1]) == PAD))
    return step


def say(
    step: Step, texts: list[list[list[int]]], steps: int, temperature: float = 0.0
) -> tuple[Tensor, Tensor, DictationState]:
    """The agent's tokens [B, S], its audio [B, 1, N] and the state behind them; a row without words is left alone."""
    state = step.init_state(len(texts))
    assert isinstance(state, DictationState)
    for row, words in enumerate(texts):
        if words:
            dictate(state, row, words)
    silence = torch.zeros(len(texts), 1, step.step_size)
    outs = [step(silence, state, same_controls(len(texts), temperature)) for _ in range(steps)]
    return torch.stack([out.text["agent_text"] for out in outs], dim=1), torch.cat([out.wav for out in outs], -1), state


def said(ids: Tensor) -> list[int]:
    return [token for token in ids.tolist() if token != PAD]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_tokens_come_in_order_and_nothing_else(temperature: float) -> None:
    ids, _, state = say(dictated_step(), [WORDS], 90, temperature)
    assert said(ids[0]) == TOKENS
    assert is_done(state).tolist() == [True]
    row = ids[0].tolist()
    assert row[row.index(3) + 1] == 1, "the tokens of a word follow each other"


def test_a_model_that_wants_to_speak_is_not_held_back() -> None:
    ids, _, state = say(dictated_step(pad=-1e6), [WORDS], 10)
    assert ids[0].tolist() == [3, 1, 7, 2, 5, 2, PAD, PAD, PAD, PAD] and state.pushed.tolist() == [0]


def test_a_model_that_wants_nothing_is_pushed_at_the_slowest_pace() -> None:
    ids, _, state = say(dictated_step(Pace(first=4, next=2), pad=1e6), [WORDS], 14)
    _ = PAD
    assert ids[0].tolist() == [_, _, _, _, 3, 1, _, _, 7, _, _, 2, 5, 2] and state.pushed.tolist() == [3]


def test_the_models_wish_decides_when() -> None:
    """Words come in the steps in which any token is likelier than silence."""
    step, moods = dictated_step(Pace(first=10**6, next=10**6)), chain.from_iterable(repeat((1e6, 1e6, -1e6, -1e6)))
    step.model.text_heads["agent_text"].register_forward_hook(  # which is asked twice a step
        lambda module, inputs, logits: logits - next(moods) * (torch.arange(PAD + 1) == PAD)
    )
    ids, _, _ = say(step, [[[token] for token in range(9)]], 20)
    places = [number for number, token in enumerate(ids[0].tolist()) if token != PAD]
    assert places == list(range(0, 18, 2)) and said(ids[0]) == list(range(9))


def test_a_talker_decides_when_the_next_word_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    step = DictatedStep(tiny_codec(SMALL_SPEC), tiny_model(LAYOUT, ahead=True, talker=True, talker_keeps_time=True))
    head, talker = step.model.text_heads["agent_text"], step.model.talker
    assert talker is not None and talker.timing is not None
    torch.nn.init.zeros_(talker.timing.token.weight)
    monkeypatch.setattr(head, "forward", lambda hidden: torch.zeros(1, PAD + 1))
    moods = iter([-3, -3, -3, 1, -3, 1, 1, 1, 1, 1])
    monkeypatch.setattr(talker.timing.out, "forward", lambda voice: torch.full((1, 1), float(next(moods))))
    ids, _, state = say(step, [WORDS], 10)
    _ = PAD
    assert ids[0].tolist() == [3, 1, _, _, 7, _, 2, 5, 2, _] and state.pushed.tolist() == [0]


def test_rows_say_their_own_text_and_no_text_is_silence() -> None:
    step, texts = dictated_step(), [WORDS, [], [[4]]]
    ids, _, state = say(step, texts, 90)
    assert [said(row) for row in ids] == [TOKENS, [], [4]]
    assert is_done(state).tolist() == [True, True, True]
    alone, _, _ = say(step, [WORDS], 90)
    assert torch.equal(alone[0], ids[0])


def test_a_graph_says_the_same() -> None:
    step = dictated_step(Pace(first=3, next=4))
    traced = TracedStep(step)
    for temperature in (0.0, 0.9):
        expected, found = (say(each, [WORDS, [[4]]], 30, temperature) for each in (step, traced))
        assert torch.equal(expected[0], found[0]) and torch.equal(expected[1], found[1])
        assert said(found[0][0]) == TOKENS


def test_what_cannot_be_said_is_refused() -> None:
    state = dictated_step().init_state(1)
    for words in ([], [[]], [[1]] * (MAX_TOKENS + 1)):
        with pytest.raises(ValueError, match=f"allowed are 1 to {MAX_TOKENS}"):
            dictate(state, 0, words)
    dictate(state, 0, [[1]] * MAX_TOKENS)
    with pytest.raises(ValueError, match="a pace of"):
        Pace(first=-1)
