"""Capacity: the ramp finds the largest number that is sustained, and overload is judged by what must hold."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.evaluation.capacity import Hold, Overload, Ramp, fairness, quantile_bound


@given(limit=st.integers(1, 200), best=st.integers(0, 250), first=st.integers(1, 200))
def test_the_ramp_finds_the_largest_number(limit: int, best: int, first: int) -> None:
    ramp, tried = Ramp(limit, min(first, limit)), list[int]()
    while (sessions := ramp.next) is not None:
        assert 1 <= sessions <= limit and sessions not in tried
        tried.append(sessions)
        ramp.held(sessions <= best)
    assert ramp.good == min(best, limit)
    assert len(tried) <= 2 * math.log2(limit) + 3


@pytest.mark.parametrize(("limit", "first"), [(0, 1), (4, 5), (4, 0)])
def test_a_ramp_that_is_none(limit: int, first: int) -> None:
    with pytest.raises(ValueError, match="not possible"):
        Ramp(limit, first)


@pytest.mark.parametrize(
    ("hold", "trouble"),
    [
        (Hold(4, 0, 0), ""),
        (Hold(4, 0, 0, p99_step_ms=30, frame_ms=40), ""),
        (Hold(4, 0, 0, p99_step_ms=35, frame_ms=40), "p99 step up to 35 ms of a 40 ms frame"),
        (Hold(4, 0, 0, p99_step_ms=math.inf, frame_ms=40), "p99 step up to inf ms of a 40 ms frame"),
        (Hold(4, 0, 2), "2 underruns"),
        (Hold(4, 1, 2), "1 calls failed"),
    ],
)
def test_why_a_number_is_too_many(hold: Hold, trouble: str) -> None:
    assert hold.trouble == trouble


def test_quantiles_of_what_was_added_to_a_histogram() -> None:
    before = {1.0: 100.0, 5.0: 100.0, math.inf: 100.0}
    after = {1.0: 190.0, 5.0: 199.0, math.inf: 200.0}
    assert quantile_bound(before, after, 0.9) == 1.0
    assert quantile_bound(before, after, 0.99) == 5.0
    assert quantile_bound(before, after, 1.0) == math.inf
    assert quantile_bound(after, after, 0.99) is None
    assert quantile_bound({}, {}, 0.99) is None


def test_fairness() -> None:
    assert fairness([5.0, 5.0, 5.0]) == {"n": 3, "jain": pytest.approx(1.0), "worst_to_median": 1.0}
    assert fairness([1.0, 1.0, 4.0])["worst_to_median"] == 4.0
    assert fairness([1e-9, 1e-9, 1e-9, 8.0])["jain"] == pytest.approx(0.25)
    assert fairness([]) == {"n": 0, "jain": None, "worst_to_median": None}


def test_what_an_overload_report_says() -> None:
    overload = Overload(10, 30, [100.0, 104.0], 0, [102.0], [20.0, 99.0], 0, 0.5)
    result = overload.report(base_p99_ms=100.0)
    assert (result["offered"], result["admitted"], result["refused"]) == (30, 1, 2)
    assert result["p99_to_base"] == 1.04
    assert result["holds"] == {"p99": True, "refusals": True, "recovery": True}


def test_an_overload_that_breaks_everything() -> None:
    result = Overload(10, 30, [100.0, 104.0], 1, [102.0], [20.0, 101.0], 3, None).report(base_p99_ms=100.0)
    assert result["answer_ms"]["p99"] is None and result["p99_to_base"] is None
    assert result["holds"] == {"p99": False, "refusals": False, "recovery": False}
    assert Overload(10, 0, [], 0, [], [], 0, 2.5).report(None)["holds"] == {
        "p99": False, "refusals": False, "recovery": False,
    }  # fmt: skip
