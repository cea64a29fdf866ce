"""How replies begin: which tokens are asked for in the step of the first one."""

from __future__ import annotations

from dataclasses import replace

import torch

from s2s.models.plan import REACH
from s2s.text import ByteTokenizer
from s2s.train.module import DuplexModule
from s2s.train.objective import DuplexTrainConfig
from s2s.train.plan import Planned, beginnings
from tests.tiny import random_tracks, tiny_layout, tiny_model

PAD = 10
STEPS = 60


def begun(*said: tuple[int, int], valid: int = STEPS) -> Planned:
    """What is asked for where tokens are said at these (step, token)."""
    target = torch.full((1, STEPS), PAD)
    for step, token in said:
        target[0, step] = token
    return beginnings(target, PAD, torch.arange(STEPS)[None] < valid, 2)


def asked(planned: Planned) -> list[tuple[int, list[tuple[int, int]]]]:
    """(step, [(token before, token asked for)]) of every reply that has more than one token."""
    rows = zip(planned.steps[0], planned.last[0], planned.tokens[0], planned.known[0], strict=True)
    found = []
    for step, last, tokens, known in rows:
        pairs = [(int(a), int(b)) for a, b, there in zip(last, tokens, known, strict=True) if there]
        if pairs:
            found.append((int(step), pairs))
    return found


def test_the_first_step_is_asked_for_the_tokens_behind_the_first_one() -> None:
    assert asked(begun((3, 1), (5, 2), (5 + REACH, 3), (40, 4))) == [(3, [(1, 2), (2, 3)])]
    two = begun((0, 1), (1, 2), (1 + REACH + 1, 3), (STEPS - 1, 4))
    assert asked(two) == [(0, [(1, 2)])], "a reply ends before a long pause, and one token alone asks for nothing"
    assert asked(begun((2, 1), (4, 2), (30, 5), (33, 6), (34, 7), (35, 8))) == [(2, [(1, 2)]), (30, [(5, 6), (6, 7)])]


def test_what_is_beyond_the_end_is_not_asked_for() -> None:
    assert asked(begun((3, 1), (5, 2), (7, 3), valid=6)) == [(3, [(1, 2)])]
    assert asked(begun()) == []


def test_all_replies_of_a_row_are_found() -> None:
    every = [(step, step % PAD) for step in range(0, STEPS, REACH + 1)]
    planned = begun(*every)
    assert planned.steps[0].tolist() == [step for step, _ in every]
    assert not planned.known.any()


def module(**settings: float) -> DuplexModule:
    torch.manual_seed(0)
    config = DuplexTrainConfig(
        replace(tiny_model(tiny_layout(), ahead=True, plan_tokens=3).config, wording_layer=1),
        **settings,  # type: ignore[arg-type]
    )
    return DuplexModule(config, ByteTokenizer())


def test_a_model_learns_how_its_replies_begin() -> None:
    layout = tiny_layout()
    batch = random_tracks(layout, 4, 40) | {
        "agent_active": torch.ones(4, 40, dtype=torch.bool),
        "lengths": torch.full((4,), 40),
    }
    text = batch["agent_text"]
    text[:] = layout.stream("agent_text").pad_id
    text[:, 0, 20:24] = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 8], [5, 7, 7, 8], [4, 6, 7, 8]])
    once, twice = (module(plan_weight=w).eval().losses(batch)["plan"] for w in (1.0, 2.0))
    assert once > 1 and torch.equal(2 * once, twice)
    assert module(dictated_share=1.0).train().losses(batch)["plan"] == 0
    learner = module(learning_rate=1e-2).train()
    trained = torch.optim.Adam(learner.parameters(), 1e-2)
    for _ in range(60):
        trained.zero_grad()
        learner.losses(batch)["plan"].backward()
        trained.step()
    assert learner.eval().losses(batch)["plan"] < 0.1 * once
    kept = module(replies_only=True)
    assert kept.model.plan is not None and all(p.requires_grad for p in kept.model.plan.parameters())
