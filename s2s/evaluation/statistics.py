"""Statistics: percentiles, Wilson and bootstrap intervals, as every table of numbers here prints them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def summarise(values: Sequence[float], failures: int = 0) -> dict[str, Any]:
    """Return n, failures, mean and p50/p90/p95/p99/max of `values`, in their unit.

    Percentiles are nearest-rank (an observed value, never an interpolation) over values and failures together, a
    failure counting as infinite; one that falls on a failure, or on nothing, is None. The mean is of the values.
    """
    if failures < 0:
        raise ValueError(f"failures must be at least 0, not {failures}")
    ordered = sorted(float(value) for value in values)
    if not all(math.isfinite(value) for value in ordered):
        raise ValueError("values must be finite; count a missing value as a failure")
    total = len(ordered) + failures

    def rank(percent: float) -> float | None:
        index = max(math.ceil(percent / 100 * total) - 1, 0)
        return ordered[index] if index < len(ordered) else None

    percentiles = {f"p{percent}": rank(percent) for percent in (50, 90, 95, 99)}
    mean = math.fsum(ordered) / len(ordered) if ordered else None
    return {"n": total, "failures": failures, "mean": mean, **percentiles, "max": rank(100)}


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (z = 1.96: 95 %); (0, 1) when nothing was tried."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be in 0 ... {n}, not {successes}")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def proportion(successes: int, n: int) -> dict[str, Any]:
    """Return successes, n, rate (None when n is 0) and the bounds of the 95 % Wilson interval."""
    low, high = wilson_interval(successes, n)
    return {"successes": successes, "n": n, "rate": successes / n if n else None, "low": low, "high": high}


def bootstrap_ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of sum(numerators) / sum(denominators), resampling whole pairs."""
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or len(top) == 0:
        raise ValueError(f"need as many numerators as denominators, at least one; got {top.shape} and {bottom.shape}")
    picks = np.random.default_rng(seed).integers(0, len(top), size=(resamples, len(top)))
    totals = bottom[picks].sum(axis=1)
    ratios = top[picks].sum(axis=1)[totals > 0] / totals[totals > 0]
    if len(ratios) == 0:
        return math.nan, math.nan
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Return n, mean and its 95 % bootstrap bounds; None where there are no values."""
    if not values:
        return {"n": 0, "mean": None, "low": None, "high": None}
    low, high = bootstrap_ratio_interval(values, [1.0] * len(values))
    return {"n": len(values), "mean": math.fsum(values) / len(values), "low": low, "high": high}


def percentile_interval(values: Sequence[float], percent: float, failures: int = 0) -> dict[str, Any]:
    """Return n, the percentile as `summarise` finds it and its 95 % bounds, which are observed values too.

    The bounds' ranks come from the binomial distribution (normal approximation); a bound on a failure is None.
    """
    ordered, share = sorted(values), percent / 100
    total = len(ordered) + failures

    def at(rank: int) -> float | None:
        index = min(max(rank, 1), total) - 1
        return ordered[index] if 0 <= index < len(ordered) else None

    spread = 1.96 * math.sqrt(total * share * (1 - share))
    middle = total * share
    return {
        "n": total,
        "value": at(math.ceil(middle)),
        "low": at(math.floor(middle - spread)),
        "high": at(math.ceil(middle + spread) + 1),
    }


def ratio_interval(part: tuple[int, int], whole: tuple[int, int], z: float = 1.96) -> dict[str, Any]:
    """Return the ratio of two proportions (successes, n) with the bounds of its 95 % interval (Katz et al. 1978).

    None where one of them has no successes, or nothing was tried.
    """
    (a, n), (b, m) = part, whole
    if not (a and b):
        return {"ratio": 0.0 if b and n else None, "low": None, "high": None}
    ratio = (a / n) / (b / m)
    spread = z * math.sqrt(1 / a - 1 / n + 1 / b - 1 / m)
    return {"ratio": ratio, "low": ratio * math.exp(-spread), "high": ratio * math.exp(spread)}
