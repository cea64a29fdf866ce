"""How a reply begins: all of it is known in the step of the first token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s2s.models.plan import REACH, Plan, PlanState
from tests.tiny import SMALL_SPEC, same_controls, tiny_model, tiny_step

VOCAB = 5
PAD = VOCAB


class Told(Plan):
    """A plan that reads it off what its reply began with: the first number is the token of place 1, and so on."""

    def __init__(self) -> None:
        super().__init__(4, VOCAB, num_tokens=3)

    def forward(self, hidden: torch.Tensor, said: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """In place of what is asked for: the logits themselves."""
        wanted = hidden.gather(1, said[:, None])[:, 0].long()
        return torch.nn.functional.one_hot(wanted, VOCAB).float()


def write(plan: Plan, state: PlanState, token: int | None, hidden: tuple[float, ...] = (0, 0, 0, 0)) -> int:
    """One step that would write a token, or nothing; the token that it writes."""
    which = torch.nn.functional.one_hot(torch.tensor([token or 0]), VOCAB).float()
    best = plan.choose(plan.next(state.hidden, state), which, state).argmax(dim=1)
    ids = torch.full_like(best, PAD) if token is None else best
    plan.follow(ids, torch.tensor([hidden]), state)
    return int(ids)


def silent(plan: Plan, state: PlanState, steps: int) -> None:
    for _ in range(steps):
        assert write(plan, state, None, (4, 4, 4, 4)) == PAD


def test_a_reply_goes_on_as_it_was_planned_in_its_first_step() -> None:
    plan = Told()
    state = plan.init_state(1)
    silent(plan, state, REACH)
    assert write(plan, state, 1, (0, 3, 2, 0)) == 1, "the first token is not the plan's business"
    said = []
    for step in range(6):
        silent(plan, state, step % 2)  # a plan does not say when
        said.append(write(plan, state, 1, (0, 4, 4, 4)))
    assert said == [3, 2, 1, 1, 1, 1], "two tokens are planned, what follows them is not"


def test_behind_a_long_pause_another_reply_is_planned() -> None:
    plan = Told()
    for pause, expected in ((REACH - 1, [1, 3, 2]), (REACH, [1, 0, 4])):
        state = plan.init_state(1)
        silent(plan, state, REACH)
        said = [write(plan, state, 1, (0, 3, 2, 0))]
        silent(plan, state, pause)
        said += [write(plan, state, 0, (0, 4, 4, 0)), write(plan, state, 0)]
        assert said == expected


def test_what_begins_with_the_conversation_has_no_plan() -> None:
    plan = Told()
    state = plan.init_state(1)
    silent(plan, state, REACH - 1)
    assert [write(plan, state, token, (3, 3, 3, 3)) for token in (1, 2, 0)] == [1, 2, 0]


def test_rows_have_plans_of_their_own() -> None:
    plan = Told()
    state = plan.init_state(2)
    state.idle += REACH
    plan.follow(torch.tensor([1, PAD]), torch.tensor([[0.0, 3, 2, 0], [0, 4, 4, 0]]), state)
    assert plan.choose(plan.next(state.hidden, state), torch.eye(VOCAB)[:2], state).argmax(dim=1).tolist() == [3, 1]


def test_the_step_writes_what_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    step = tiny_step(SMALL_SPEC, ahead=True, plan_tokens=4)
    assert step.model.ahead is not None and step.model.plan is not None
    layout = step.model.layout.stream("agent_text")
    with torch.no_grad():
        step.model.text_heads["agent_text"].weight[layout.pad_id] = 0.0
        step.model.ahead.weight[9] = 0.0
        step.model.ahead.weight[9, 0] = 1.0
        step.model.ahead.weight[:9, 0] = step.model.ahead.weight[10:, 0] = -1.0
    nine = torch.nn.functional.one_hot(torch.tensor([0, 0]), step.model.config.backbone.width).float() * 100
    monkeypatch.setattr(step.model.plan, "forward", lambda *args: nine)
    state, controls = step.init_state(2), same_controls(2)
    assert state.ahead is not None and state.ahead.plan is not None
    state.ahead.plan.idle += REACH  # as if it had waited for that long
    said = [step(torch.randn(2, 1, step.step_size), state, controls).text["agent_text"] for _ in range(30)]
    for row in range(2):
        words = [int(ids[row]) for ids in said if ids[row] < layout.vocab_size]
        assert len(words) > 4 and [token == 9 for token in words[:5]] == [False, True, True, True, False], words


@pytest.mark.parametrize(("tokens", "ahead"), [(1, True), (-1, True), (17, True), (4, False)])
def test_only_so_much_is_planned_and_only_by_models_that_look_ahead(tokens: int, ahead: bool) -> None:
    with pytest.raises(ValueError, match=f"plan_tokens is {tokens}, allowed is 0, and with ahead 2 to 16"):
        replace(tiny_model(ahead=ahead).config, plan_tokens=tokens)
