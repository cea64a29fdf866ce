"""The grid of ticks in wall time."""

from __future__ import annotations

import pytest

from s2s.engine.grid import Grid


def test_ticks_are_due_on_exact_multiples() -> None:
    grid = Grid(step_size=441, sample_rate=44100, max_late=5, start_s=7.0)
    for _ in range(1_000_000):
        grid.done(grid.due_s)
    assert grid.due_s == 7.0 + 10_000.0
    assert (grid.misses, grid.left_out) == (0, 0)


def test_a_late_tick_is_a_miss_and_moves_nothing() -> None:
    grid = Grid(960, 24000, max_late=5, start_s=0.0)
    assert grid.done(0.039) == 0
    assert grid.done(0.081) == 0  # due by 0.080
    assert grid.due_s == pytest.approx(0.08)
    assert grid.done(0.1) == 0
    assert (grid.misses, grid.left_out) == (1, 0)


def test_late_ticks_are_made_up_for_at_once_but_not_all() -> None:
    grid = Grid(960, 24000, max_late=5, start_s=0.0)
    assert grid.done(1.001) == 19  # 24 are overdue
    assert 1.001 - grid.due_s == pytest.approx(0.201)
    for _ in range(6):
        assert grid.done(1.002) == 0
    assert grid.due_s == pytest.approx(1.04)
    # The five that were overdue: each is done after the next one was due, until the grid is reached.
    assert (grid.misses, grid.left_out, grid.ticks) == (6, 19, 26)


def test_without_making_up_the_grid_only_jumps() -> None:
    grid = Grid(960, 24000, max_late=0, start_s=0.0)
    assert grid.done(0.13) == 2
    assert grid.due_s == pytest.approx(0.12)
