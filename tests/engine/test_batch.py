"""One tick of all rows: who waits is untouched, who fails fails alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from s2s.engine.batch import CHECK_EVERY, Batch, Said
from s2s.nn.sampling import Controls
from tests.engine.fakes import SumState, SumStep

LEVELS = (1000, 2000, 3000, 4000, 5000)
"""What each row hears; its sum tells how often it was heard."""
BAD = 12345


def pcm(level: int) -> np.ndarray:
    return np.full(40, level, dtype=np.int16)


def batch_of(step: SumStep, rows: int, buckets: tuple[int, ...] = (1, 2, 4, 8)) -> Batch:
    batch = Batch(step, 8, buckets)
    for _ in range(rows):
        batch.slots.join(Controls.uniform(1))
    return batch


def said(result: object) -> int:
    assert isinstance(result, Said), result
    return int(result.pcm[0])


def remembered(batch: Batch, rows: int) -> list[tuple[int, int]]:
    """(sum of what was heard, steps) of every row."""
    state: SumState = batch.slots.view(0, rows).state
    return [(round(total * 32768), position) for total, position in zip(state.total.tolist(), state.position.tolist())]


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_the_smallest_bucket_that_holds_them_is_run(rows: int, size: int) -> None:
    step = SumStep()
    batch = batch_of(step, rows)
    results = batch.run([pcm(100 * row) for row in range(rows)])
    assert step.sizes == [size]
    assert [said(result) for result in results] == [100 * row for row in range(rows)]


@pytest.mark.parametrize("buckets", [(1, 2, 4, 8), (4, 8), ()])
def test_who_waits_is_untouched(buckets: tuple[int, ...]) -> None:
    batch = batch_of(SumStep(), 3, buckets)
    batch.run([pcm(level) for level in LEVELS[:3]])
    results = batch.run([pcm(1000), None, pcm(3000)])
    assert results[1] is None and [said(results[row]) for row in (0, 2)] == [1000, 3000]
    assert remembered(batch, 3) == [(2000, 2), (2000, 1), (6000, 2)]
    assert batch.run([None, None, None]) == [None] * 3
    assert remembered(batch, 3) == [(2000, 2), (2000, 1), (6000, 2)]


def raise_at(level: int) -> SumStep:
    """Fails on whoever hears this level, after it has changed every row of the state."""

    def trouble(wav: Tensor, state: SumState, output: Tensor) -> None:
        if bool((wav.mean(dim=(1, 2)) * 32768 - level).abs().min() < 1):
            raise IndexError("no such token")

    return SumStep(trouble)


@pytest.mark.parametrize("buckets", [(1, 2, 4, 8), (4, 8), ()])
def test_a_step_that_raises_is_undone_for_all_others(buckets: tuple[int, ...]) -> None:
    batch = batch_of(raise_at(BAD), 4, buckets)
    batch.run([pcm(level) for level in LEVELS[:4]])
    results = batch.run([pcm(1000), pcm(BAD), None, pcm(4000)])
    assert isinstance(results[1], IndexError) and results[2] is None
    assert [said(results[row]) for row in (0, 3)] == [1000, 4000]
    done = remembered(batch, 4)
    assert [done[row] for row in (0, 2, 3)] == [(2000, 2), (3000, 1), (8000, 2)]


def test_a_step_that_always_raises_takes_all_with_it() -> None:
    def trouble(wav: Tensor, state: SumState, output: Tensor) -> None:
        raise MemoryError("no more")

    results = batch_of(SumStep(trouble), 3).run([pcm(1), None, pcm(3)])
    assert [type(result) for result in results] == [MemoryError, type(None), MemoryError]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_output_that_is_no_number_is_one_rows_failure(wrong: float) -> None:
    def trouble(wav: Tensor, state: SumState, output: Tensor) -> None:
        output[1, 0, 7] = wrong

    results = batch_of(SumStep(trouble), 3).run([pcm(level) for level in LEVELS[:3]])
    assert isinstance(results[1], FloatingPointError) and "output" in str(results[1])
    assert [said(results[row]) for row in (0, 2)] == [1000, 3000]


def test_memory_that_is_no_number_is_found_within_a_round() -> None:
    def trouble(wav: Tensor, state: SumState, output: Tensor) -> None:
        state.total[1] = float("nan")
        output.zero_()  # whoever picks the likeliest of nothing says something

    batch = batch_of(SumStep(trouble), 3)
    failed = [[isinstance(r, Exception) for r in batch.run([pcm(1)] * 3)] for _ in range(3 * CHECK_EVERY)]
    assert [sum(column) for column in zip(*failed)] == [0, 1, 0]


def test_loud_output_is_clipped_and_ids_are_numbers() -> None:
    def trouble(wav: Tensor, state: SumState, output: Tensor) -> None:
        output[0] = 3.0

    result = batch_of(SumStep(trouble), 1).run([pcm(1)])[0]
    assert said(result) == 32767 and isinstance(result, Said)
    assert result.ids == {"agent_text": 97, "user_text": 300}


def test_rows_that_nobody_has_hear_silence() -> None:
    heard: list[Tensor] = []
    batch = batch_of(SumStep(lambda wav, state, output: heard.append(wav.clone())), 5)
    batch.run([pcm(level) for level in LEVELS])
    batch.slots.leave(4)
    batch.slots.leave(3)
    batch.run([pcm(level) for level in LEVELS[:3]])
    assert list(heard[-1].shape) == [4, 1, 40] and not heard[-1][3].any() and torch.all(heard[-1][:3] != 0)
