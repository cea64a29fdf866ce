"""Rows are dense, move whole and leave nothing behind."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from s2s.engine.slots import Slots
from s2s.models.step import EchoState, EchoStep
from s2s.nn.sampling import Controls
from s2s.streaming import leaves
from tests.tiny import SMALL_SPEC, tiny_step


def controls(number: int) -> Controls:
    return Controls(torch.tensor([number / 10]), torch.tensor([number]), torch.tensor([-number]))


def rows_of(slots: Slots) -> list[Tensor]:
    return leaves(slots.view(0, slots.num_rows))


def test_random_joins_and_leaves_keep_the_live_rows_first() -> None:
    slots, rng, live = Slots(EchoStep(), 5), random.Random(0), list[int]()
    for number in range(1, 500):
        if live and (len(live) == slots.num_rows or rng.random() < 0.5):
            row = rng.randrange(len(live))
            slots.leave(row)
            live[row] = live[-1]
            live.pop()
        else:
            slots.join(controls(number))
            assert slots.view(len(live), len(live) + 1).state.position == 0, "who joins is fresh"
            live.append(number)
        slots.view(0, slots.num_rows).state.position[: len(live)] = torch.tensor(live, dtype=torch.long)
        assert slots.count == len(live)
        held = slots.view(0, slots.num_rows)
        assert held.state.position.tolist() == live + [0] * (5 - len(live))
        assert held.controls.seed.tolist() == [-number for number in live] + [0] * (5 - len(live))
        assert held.controls.top_k.tolist() == live + [0] * (5 - len(live))
        torch.testing.assert_close(held.controls.temperature, torch.tensor(live + [0] * (5 - len(live))) / 10)


def test_only_who_joins_waits() -> None:
    step = tiny_step(SMALL_SPEC)
    slots, text = Slots(step, 3), step.model.layout.rows("agent_text")
    for number, opening in enumerate((True, False, True)):
        slots.join(controls(number), opening)
    tokens = slots.view(0, 3).state.ring.tokens[:, text, -1].flatten()
    assert tokens.tolist() == [0, step.model.layout.stream("agent_text").pad_id + 1, 0]
    slots.leave(1)
    slots.leave(1)
    slots.join(controls(3))
    assert not any(bool(leaf[1].any()) for leaf in leaves(slots.view(0, 3).state)), "who waited leaves nothing behind"


def test_a_step_that_cannot_wait_takes_nobody_in() -> None:
    class Talkative(EchoStep):
        def wait(self, state: EchoState, waits: Tensor) -> None:
            raise ValueError("never")

    slots = Slots(Talkative(), 2)
    with pytest.raises(ValueError, match="never"):
        slots.join(controls(1), opening=False)
    assert slots.count == 0
    slots.join(controls(2))
    assert slots.view(0, 1).controls.seed.tolist() == [-2]


def test_addresses_never_change() -> None:
    slots = Slots(EchoStep(), 3)
    before = [leaf.data_ptr() for leaf in rows_of(slots)]
    for number in range(3):
        slots.join(controls(number))
    slots.remember()
    slots.leave(0)
    slots.undo([0])
    slots.put(1, slots.take(0, 2))
    assert [leaf.data_ptr() for leaf in rows_of(slots)] == before


def test_undo_brings_back_the_rows_it_is_told() -> None:
    slots = Slots(EchoStep(), 3)
    for number in range(3):
        slots.join(controls(number))
    position = slots.view(0, 3).state.position
    position += torch.tensor([1, 2, 3])
    slots.remember()
    position += 10
    slots.undo([0, 2])
    assert position.tolist() == [1, 12, 3]


def test_of_rows_that_step_again_only_what_that_does_not_rewrite_is_kept() -> None:
    slots = Slots(tiny_step(SMALL_SPEC), 3)
    for number in range(3):
        slots.join(controls(number))
    state = slots.view(0, 3).state
    keys, position = state.backbone.layers[0].keys, state.backbone.position
    slots.remember([1])
    keys += 1
    position += 1
    slots.undo([0, 1])
    assert position.tolist() == [0, 0, 1]
    assert [bool(row.any()) for row in keys] == [True, False, True]


def test_what_left_is_gone_from_memory() -> None:
    slots = Slots(EchoStep(), 2)
    slots.join(controls(5))
    slots.view(0, 1).state.position += 7
    slots.remember()
    slots.leave(0)
    assert not any(bool(leaf.any()) for pair in slots._now_and_before for leaf in pair)


def test_a_row_alone_is_followed_by_fresh_ones() -> None:
    slots = Slots(EchoStep(), 3)
    for number in (1, 2):
        slots.join(controls(number))
    slots.view(0, 3).state.position += torch.tensor([5, 6, 7])
    rows = slots.take(1, 4)
    assert rows.state.position.tolist() == [6, 0, 0, 0] and rows.controls.top_k.tolist() == [2, 0, 0, 0]
    rows.state.position += 1
    slots.put(0, rows)
    assert slots.view(0, 3).state.position.tolist() == [7, 6, 7]
