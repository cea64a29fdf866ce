"""The contract of every streaming module, in float64 so that rounding cannot hide an error.

One table of modules (`streaming_cases.py`), one of laws (see `s2s/streaming.py`). A class with a state that is missing
from the table fails a test, and so does a law that a deliberately broken module would pass.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2s.streaming import (
    State,
    clone,
    leaves,
    load_state,
    move_row,
    named_leaves,
    put_rows,
    reset_rows,
    rewritten_leaves,
    save_state,
    take_rows,
    view_rows,
)
from tests.streaming_cases import CASES, LENGTH, Case, vectors

PACKAGE = Path(__file__).parents[1] / "s2s"


def random_cuts(length: int, seed: int) -> list[int]:
    """Chunk lengths that add up to `length`, many short and some long."""
    generator = random.Random(seed)
    cuts: list[int] = []
    while (rest := length - sum(cuts)) > 0:
        cuts.append(generator.randint(1, min(rest, generator.choice([1, 2, 5, rest]))))
    return cuts


def assert_close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10 if a.is_floating_point() else 0)


def assert_equal(a: State, b: State) -> None:
    """Bit by bit."""
    for (name, x), (_, y) in zip(named_leaves(a), named_leaves(b), strict=True):
        assert torch.equal(x, y), f"{name} differs by up to {(x - y).abs().max()}"


def started(case: Case, rows: int, units: int = 7) -> tuple[Any, State]:
    """The module and a state in the middle of a conversation."""
    module = case.build()
    state = case.init(module, rows)
    case.play(module, case.data(rows, units), state, random_cuts(units, 1))
    return module, state


def chunk_invariance(case: Case) -> None:
    module, x = case.build(), case.data(2, LENGTH)
    whole = case.whole(module, x)
    assert whole.shape[case.out_time] == LENGTH * case.out_unit
    ones = [1] * LENGTH
    chunkings = [ones, [LENGTH], [1, LENGTH - 1], [LENGTH - 1, 1], *(random_cuts(LENGTH, seed) for seed in range(4))]
    for cuts in [ones] if case.ticks else chunkings:
        assert_close(case.play(module, x, case.init(module, 2), cuts), whole)


def causality(case: Case) -> None:
    module, x = case.build(), case.data(2, LENGTH)
    middle = LENGTH // 2
    if case.gradient:
        x.requires_grad_()
        y = case.run(module, x, None)
        y.narrow(case.out_time, 0, middle * case.out_unit).square().sum().backward()
        assert x.grad is not None
        later = case.cut(x.grad, middle, LENGTH)
        assert torch.equal(later, torch.zeros_like(later)), "an output depends on a later input"
        for unit in range(middle):
            assert case.cut(x.grad, unit, unit + 1).any(), "an input has no effect on the outputs up to its own time"
        return
    changed = x.clone()
    changed.narrow(case.time, middle * case.unit, (LENGTH - middle) * case.unit).copy_(case.data(2, LENGTH - middle))
    before, after = case.whole(module, x), case.whole(module, changed)
    now = middle * case.out_unit
    assert_equal(before.narrow(case.out_time, 0, now), after.narrow(case.out_time, 0, now))
    # What is heard need not change the token that is drawn at once.
    until = (LENGTH - middle if case.ticks else 1) * case.out_unit
    assert not torch.equal(before.narrow(case.out_time, now, until), after.narrow(case.out_time, now, until))


def row_independence(case: Case) -> None:
    """Whatever the neighbours hear and remember, a row's outputs and state stay the same, bit by bit."""
    module = case.build()
    past, x = case.data(3, 7), case.data(3, 6)
    other_past, other = case.data(3, 7), case.data(3, 6)
    other_past[1], other[1] = past[1], x[1]
    outputs, states = [], []
    for a, b in ((past, x), (other_past, other)):
        state = case.init(module, 3)
        case.play(module, a, state, random_cuts(7, 2))
        outputs.append(case.play(module, b, state, random_cuts(6, 3)))
        states.append(take_rows(state, [1]))
    assert_equal(outputs[0][1], outputs[1][1])
    assert_equal(states[0], states[1])
    assert not torch.equal(outputs[0][0], outputs[1][0])
    # Alone, products of matrices may round differently; nothing else may change.
    alone = case.init(module, 1)
    case.play(module, past[1:2], alone, random_cuts(7, 2))
    assert_close(case.play(module, x[1:2], alone, random_cuts(6, 3))[0], outputs[0][1])


def reset_is_new(case: Case) -> None:
    module, state = started(case, 3)
    fresh, continued = case.init(module, 3), clone(state)
    assert all(not leaf.any() for leaf in leaves(fresh)), "a fresh state is not all zeros"
    reset_rows(state, [1])
    x = case.data(3, 8)
    cuts = random_cuts(8, 4)
    after, new, kept = (case.play(module, x, s, cuts) for s in (state, fresh, continued))
    assert_equal(after[1], new[1])
    assert_equal(after[[0, 2]], kept[[0, 2]])
    reset_rows(state, slice(None))
    assert_equal(state, case.init(module, 3))


def restore(case: Case) -> None:
    module, state = started(case, 2)
    saved, x, cuts = clone(state), case.data(2, 8), random_cuts(8, 5)
    untouched = clone(saved)
    first = case.play(module, x, state, cuts)
    assert_equal(saved, untouched)
    assert_equal(case.play(module, x, saved, cuts), first)
    assert_equal(saved, state)


def save_and_load(case: Case, folder: Path) -> None:
    module, state = started(case, 2)
    save_state(state, folder / "state.safetensors")
    like = case.init(module, 2)
    loaded = load_state(folder / "state.safetensors", like)
    assert_equal(like, case.init(module, 2))
    assert_equal(loaded, state)
    x = case.data(2, 6)
    assert_equal(case.play(module, x, loaded), case.play(module, x, state))


def constant_leaves(case: Case) -> None:
    module = case.build()
    state = case.init(module, 2)
    before = [(name, leaf, leaf.shape, leaf.dtype, leaf.data_ptr()) for name, leaf in named_leaves(state)]
    assert all(leaf.shape[0] == 2 for leaf in leaves(state))
    for seed in range(3):
        case.play(module, case.data(2, LENGTH), state, random_cuts(LENGTH, seed))
        now = [(name, leaf, leaf.shape, leaf.dtype, leaf.data_ptr()) for name, leaf in named_leaves(state)]
        assert all(a[1] is b[1] and a[2:] == b[2:] for a, b in zip(before, now, strict=True))
    assert any(leaf.any() for leaf in leaves(state)) or not any(leaf.numel() for leaf in leaves(state))


def rows_move(case: Case) -> None:
    """Rows can be taken out, put elsewhere and run as a dense prefix of a larger state."""
    module, state = started(case, 4)
    x = case.data(4, 6)
    expected = case.play(module, x, clone(state))
    taken = take_rows(state, [3, 0])
    assert_close(case.play(module, x[[3, 0]], clone(taken)), expected[[3, 0]])
    put_rows(state, [0, 1], taken)
    move_row(state, 2, 3)
    assert_close(case.play(module, x[[3, 0, 2, 2]], clone(state)), expected[[3, 0, 2, 2]])
    outside = take_rows(state, [2, 3])
    assert_close(case.play(module, x[[3, 0]], view_rows(state, 2)), expected[[3, 0]])
    assert_equal(take_rows(state, [2, 3]), outside)


def no_gradient(case: Case) -> None:
    """Chunks can be differentiated one after the other; what is remembered between them carries no gradient."""
    module = case.build()
    state = case.init(module, 1)
    for _ in range(2):
        x = case.data(1, 1)
        y = case.run(module, x.requires_grad_() if case.gradient else x, state)
        assert not any(leaf.requires_grad for leaf in leaves(state))
        if case.gradient:
            y.square().sum().backward()
            assert x.grad is not None and x.grad.any()


@torch.no_grad()
def taken_back(case: Case) -> None:
    """A step that is taken back leaves no trace, though what it writes anew in any case is left as it is."""
    module, state = started(case, 2, LENGTH)
    rewritten, expected = {id(leaf) for leaf in rewritten_leaves(state)}, clone(state)
    case.run(module, case.data(2, 1), state)
    for leaf, before in zip(leaves(state), leaves(expected), strict=True):
        if id(leaf) not in rewritten:
            leaf.copy_(before)
    x = case.data(2, 1)
    assert_equal(case.run(module, x, state), case.run(module, x, expected))
    assert_equal(state, expected)


LAWS: list[Callable[[Case], None]] = [
    chunk_invariance,
    causality,
    row_independence,
    reset_is_new,
    restore,
    constant_leaves,
    rows_move,
    no_gradient,
    taken_back,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_module_keeps_the_law(case: Case, law: Callable[[Case], None]) -> None:
    law(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_state_survives_a_file(case: Case, tmp_path: Path) -> None:
    save_and_load(case, tmp_path)


def streaming_classes() -> set[type]:
    """Every class of the model code that makes states."""
    paths = [
        PACKAGE / "streams.py",
        *(p for folder in ("nn", "codec", "models") for p in (PACKAGE / folder).rglob("*.py")),
    ]
    found = set()
    for path in paths:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for _, cls in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            makes_states = any(hasattr(cls, n) for n in ("init_state", "init_encoder", "init_decoder"))
            if cls.__module__ == name and makes_states and not getattr(cls, "_is_protocol", False):
                found.add(cls)
    return found


def test_every_streaming_class_is_in_the_table() -> None:
    missing = streaming_classes() - {cls for case in CASES for cls in case.covers}
    assert not missing, f"add {sorted(cls.__name__ for cls in missing)} to tests/streaming_cases.py"


@dataclass
class SumState:
    total: Tensor
    count: Tensor = field(default_factory=lambda: torch.zeros(()))


class ClaimedState(SumState):
    REWRITTEN = True


class RunningSum(nn.Module):
    """The simplest streaming module, with one mistake of choice."""

    def __init__(self, mistake: str):
        super().__init__()
        self.mistake = mistake
        self.memory = 0.0

    def init_state(self, rows: int) -> SumState:
        shape = (rows, 1, 2)
        fill = torch.ones if self.mistake == "fresh is not zero" else torch.zeros
        kind = ClaimedState if self.mistake == "is not written anew" else SumState
        return kind(fill(shape, dtype=torch.float64), torch.zeros(() if self.mistake == "scalar leaf" else rows))

    def forward(self, x: Tensor, state: SumState | None = None) -> Tensor:
        if self.mistake == "looks ahead":
            x = x + x.roll(-1, 1)
        if self.mistake == "mixes rows":
            x = x - 1e-9 * x.mean(0)
        if self.mistake == "remembers itself":
            x = x + self.memory
            self.memory = float(x.detach().mean())
        y = x.cumsum(1)
        if state is None:
            return y
        y = y + state.total
        if self.mistake == "keeps the graph":
            state.total = state.total.copy_(y[:, -1:])
            return y
        if self.mistake == "new leaf":
            state.total = y[:, -1:]
        elif self.mistake == "forgets":
            state.total.copy_(x[:, -1:])
        else:
            state.total.copy_(y[:, -1:].detach())
        state.count += x.shape[1]
        return y


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        ("looks ahead", causality),
        ("looks ahead", chunk_invariance),
        ("mixes rows", row_independence),
        ("remembers itself", restore),
        ("remembers itself", chunk_invariance),
        ("forgets", chunk_invariance),
        ("fresh is not zero", reset_is_new),
        ("keeps the graph", no_gradient),
        ("new leaf", constant_leaves),
        ("scalar leaf", constant_leaves),
        ("is not written anew", taken_back),
    ],
)
def test_a_mistake_breaks_the_law(mistake: str, law: Callable[[Case], None]) -> None:
    case = Case(mistake, (), lambda: RunningSum(mistake), vectors(2))
    with pytest.raises((AssertionError, IndexError)):
        law(case)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_no_mistake_keeps_the_law(law: Callable[[Case], None]) -> None:
    law(Case("sum", (), lambda: RunningSum("none"), vectors(2)))
