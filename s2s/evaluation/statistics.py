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
