import json

import pytest

from s2s.evaluation.statistics import bootstrap_ratio_interval, proportion, summarise, wilson_interval


def test_percentiles_are_observed_values_by_nearest_rank() -> None:
    summary = summarise([float(value) for value in range(100, 0, -1)])
    assert {k: summary[k] for k in ("n", "p50", "p90", "p95", "p99", "max", "mean")} == {
        "n": 100, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100, "mean": 50.5,
    }  # fmt: skip
    assert summarise([7.0])["p99"] == summarise([7.0])["p50"] == 7.0


def test_failures_count_as_infinite_and_stay_json() -> None:
    summary = summarise([1.0] * 90, failures=10)
    assert summary["n"] == 100
    assert summary["failures"] == 10
    assert summary["p90"] == 1.0
    assert summary["p95"] is None
    assert summary["max"] is None
    assert "NaN" not in json.dumps(summarise([]))
    with pytest.raises(ValueError, match="finite"):
        summarise([float("inf")])


def test_wilson_interval_of_known_cases() -> None:
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert proportion(0, 0)["rate"] is None
    with pytest.raises(ValueError, match="11"):
        wilson_interval(11, 10)


def test_bootstrap_holds_the_ratio_and_narrows_with_more_data() -> None:
    errors, words = [0, 1, 0, 3, 0, 1, 0, 0], [10, 12, 8, 11, 9, 10, 7, 13]
    low, high = bootstrap_ratio_interval(errors, words)
    assert low < sum(errors) / sum(words) < high
    more_low, more_high = bootstrap_ratio_interval(errors * 20, words * 20)
    assert more_high - more_low < (high - low) / 3
    assert bootstrap_ratio_interval(errors, words) == (low, high)
    assert bootstrap_ratio_interval([1, 2], [10, 20]) == pytest.approx((0.1, 0.1))
    with pytest.raises(ValueError, match="numerators"):
        bootstrap_ratio_interval([1], [1, 2])
