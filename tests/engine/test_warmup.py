"""An engine runs only numbers of rows that agree."""

from __future__ import annotations

import pytest
import torch

from s2s.engine.warmup import agreeing_sizes, bucket_sizes, measure_groups, measure_threads
from s2s.models.step import EchoStep
from tests.engine.fakes import SumStep


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (8, (1, 2, 4, 6, 8)),
        (9, (1, 2, 4, 6, 8, 9)),
        (16, (1, 2, 4, 6, 8, 12, 16)),
    ],
)
def test_buckets_grow_by_at_most_a_half_up_to_the_most(most: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(most) == sizes


def test_steps_without_products_agree_for_all_numbers() -> None:
    assert agreeing_sizes(EchoStep(), 6) == (1, 2, 4, 6)


@pytest.mark.parametrize(
    ("max_rows", "sizes"),
    [(8, (4, 6, 8)), (5, (4, 5)), (4, (4,)), (3, (4,)), (2, (4,)), (1, (1,)), (20, (4, 6, 8, 12, 16, 20))],
)
def test_few_rows_that_round_by_their_place_are_filled_up(max_rows: int, sizes: tuple[int, ...]) -> None:
    step = SumStep(error=lambda rows: 1e-12 * torch.arange(rows) if rows in (2, 3) else torch.zeros(rows) + (rows == 1))
    assert agreeing_sizes(step, max_rows) == sizes


def test_two_rows_that_agree_with_each_other_need_no_more() -> None:
    step = SumStep(error=lambda rows: torch.full((rows,), 1e-12 * (rows < 4)))
    assert agreeing_sizes(step, 2) == (1, 2)
    assert agreeing_sizes(step, 5) == (4, 5)


def test_where_nothing_agrees_there_is_no_size() -> None:
    assert agreeing_sizes(SumStep(error=lambda rows: 1e-12 * torch.arange(rows)), 5) == ()


def test_a_difference_in_what_is_remembered_counts() -> None:
    def forget(wav: torch.Tensor, state: object, said: torch.Tensor) -> None:
        if len(wav) == 2:
            state.total.mul_(1 + 1e-15)  # type: ignore[attr-defined]

    assert agreeing_sizes(SumStep(trouble=forget), 4) == (4,)


def test_threads_are_those_that_were_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {1: 10.0, 2: 9.5, 4: 5.0, 6: 4.9}
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr("s2s.engine.warmup._median_step_s", lambda step, rows: times[chosen[-1]])
    assert measure_threads(EchoStep(), 8, most=6) == 4
    assert chosen == [1, 2, 4, 6, 4]


def test_a_thread_that_saves_next_to_nothing_is_not_kept_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr("s2s.engine.warmup._median_step_s", lambda step, rows: 4e-4 / chosen[-1])
    assert measure_threads(EchoStep(), 8, most=4) == 1


@pytest.mark.parametrize(
    ("base_ms", "row_ms", "most_ms", "groups"),
    [
        (0.0, 1.0, 28.0, 8),  # rows alone cost something: any number of groups takes as long
        (0.5, 0.9, 28.0, 8),
        (2.0, 1.0, 28.0, 2),  # 18 ms for one group, 20 for two, 24 for four
        (2.0, 1.0, 19.0, 1),
        (20.0, 0.1, 100.0, 1),  # what a graphics card costs
    ],
)
def test_there_are_as_many_groups_as_cost_little(
    monkeypatch: pytest.MonkeyPatch, base_ms: float, row_ms: float, most_ms: float, groups: int
) -> None:
    monkeypatch.setattr("s2s.engine.warmup._median_step_s", lambda step, rows: (base_ms + row_ms * rows) / 1000)
    assert measure_groups(EchoStep(), 16, bucket_sizes(16), 8, most_ms / 1000) == groups


def test_rows_that_are_run_one_by_one_can_be_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2s.engine.warmup._median_step_s", lambda step, rows: 0.002 if rows == 1 else 1.0)
    assert measure_groups(EchoStep(), 8, (), 8, 0.028) == 8
    assert measure_groups(EchoStep(), 9, (), 8, 0.028) == 2
