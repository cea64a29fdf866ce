"""The token that comes next, whenever that is: which steps are asked for it, and what the answer counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s2s.models.ahead import REPLY_STEPS
from s2s.models.plan import REACH
from s2s.text import ByteTokenizer
from s2s.train.ahead import EVE, EVE_WEIGHT, OPEN_TOKENS, OPEN_WEIGHT, next_tokens
from s2s.train.module import DuplexModule
from s2s.train.objective import DuplexTrainConfig
from tests.tiny import random_tracks, tiny_layout, tiny_model

PAD = 10


def asked(*said: tuple[int, int], steps: int = 40, valid: int | None = None) -> tuple[list[int], list[float]]:
    """Tokens and weights of each step where tokens are said at these (step, token)."""
    target = torch.full((1, steps), PAD)
    for step, token in said:
        target[0, step] = token
    tokens, weight = next_tokens(target, PAD, torch.arange(steps)[None] < (steps if valid is None else valid))
    return tokens[0].tolist(), [round(x, 3) for x in weight[0].tolist()]


def test_the_step_behind_a_token_is_asked_for_the_next_one() -> None:
    tokens, weight = asked((20, 1), (23, 2), (24, 3))
    assert tokens[20 - EVE : 25] == [1] * (EVE + 1) + [2, 2, 2, 3]
    eve = [EVE_WEIGHT] * EVE
    expected = [0.0] * (20 - EVE) + [*eve, 1.0, 1.0, EVE_WEIGHT, EVE_WEIGHT, 1.0] + [0.0] * 15
    assert weight == [round(OPEN_WEIGHT * value, 3) for value in expected]


def test_the_first_tokens_of_a_reply_count_more() -> None:
    _, weight = asked(*((step, 1) for step in range(10, 18)), (36, 2))
    assert weight[10:18] == [OPEN_WEIGHT] * OPEN_TOKENS + [1.0] * (8 - OPEN_TOKENS)
    assert weight[36] == OPEN_WEIGHT


def test_another_reply_is_nothing_to_be_known_behind_the_last_one() -> None:
    for gap, known in ((REACH + 1, True), (REACH + 2, False)):
        _, weight = asked((3, 1), (3 + gap, 2))
        assert (weight[4] == OPEN_WEIGHT) is known
        assert weight[3 + gap] == pytest.approx(OPEN_WEIGHT * (EVE_WEIGHT if known else 1))


def test_a_long_pause_is_one_of_the_reply_unless_the_caller_speaks_in_it() -> None:
    target = torch.full((1, 40), PAD)
    target[0, [3, 3 + REPLY_STEPS]] = torch.tensor([1, 2])
    valid, silent = torch.ones(1, 40, dtype=torch.bool), torch.zeros(1, 40, dtype=torch.bool)
    speaks = torch.arange(40)[None] == 10
    for caller, known in ((silent, True), (speaks, False)):
        _, weight = next_tokens(target, PAD, valid, caller)
        assert float(weight[0, 4]) == (OPEN_WEIGHT if known else 0)


def test_behind_the_last_token_of_a_reply_nothing_is_to_come() -> None:
    target = torch.full((1, 80), PAD)
    target[0, [3, 8, 40, 70]] = torch.tensor([1, 2, 3, 4])
    valid, caller = torch.ones(1, 80, dtype=torch.bool), torch.zeros(1, 80, dtype=torch.bool)
    tokens, weight = next_tokens(target, PAD, valid, caller, over=PAD)
    assert ((tokens == PAD) & (weight > 0))[0].nonzero()[:, 0].tolist() == [9, 41], (
        "behind the fourth the row may end too soon to tell"
    )
    assert weight[0, [9, 41]].tolist() == [1.0, 1.0]
    caller[0, 5] = True
    assert next_tokens(target, PAD, valid, caller, over=PAD)[0][0, 4] == 2, "a nod within a short pause parts nothing"


def test_what_is_beyond_the_end_is_not_asked_for() -> None:
    tokens, weight = asked((5, 1), (9, 2), valid=8)
    assert weight[5] == OPEN_WEIGHT and weight[6:] == [0.0] * 34 and tokens[5] == 1


def test_the_head_is_taught_where_the_agent_is_not_dictated_to() -> None:
    layout = tiny_layout()
    batch = random_tracks(layout, 4, 30) | {
        "agent_active": torch.ones(4, 30, dtype=torch.bool),
        "lengths": torch.full((4,), 30),
    }
    batch["agent_text"][:, :, ::3] = layout.stream("agent_text").pad_id

    def losses(ahead: bool, **settings: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        config = DuplexTrainConfig(tiny_model(layout, ahead=ahead).config, **settings)  # type: ignore[arg-type]
        return DuplexModule(config, ByteTokenizer()).train().losses(batch)

    assert "ahead" not in losses(False)
    once, twice = losses(True, ahead_weight=1.0), losses(True, ahead_weight=2.0)
    assert once["ahead"] > 1 and torch.equal(2 * once["ahead"], twice["ahead"])
    assert losses(True, dictated_share=1.0)["ahead"] == 0


def test_replies_are_learned_with_the_head_that_looks_ahead() -> None:
    config = replace(tiny_model(tiny_layout(), ahead=True).config, wording_layer=1)
    module = DuplexModule(DuplexTrainConfig(config, replies_only=True), ByteTokenizer())
    assert module.model.ahead is not None and module.model.ahead.weight.requires_grad
