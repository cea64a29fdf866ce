"""Capacity: the largest number of calls that a server sustains, and what it does with many times that many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2s.evaluation.statistics import summarise

STEP_SHARE = 0.8  # of a frame: what p99 of the step may take
REFUSAL_MS, RECOVERY_S, SLOWER = 100.0, 2.0, 1.05  # what an overloaded server has to keep


@dataclass(frozen=True)
class Hold:
    """`sessions` calls held for a while.

    failures: calls that were refused or broke off; underruns: of the playout buffers of all callers; p99_step_ms: as
    the server counts it, None where it does not say.
    """

    sessions: int
    failures: int
    underruns: int
    p99_step_ms: float | None = None
    frame_ms: float | None = None

    @property
    def trouble(self) -> str:
        """Why this is more than the server sustains; empty if it is not."""
        if self.failures:
            return f"{self.failures} calls failed"
        if self.underruns:
            return f"{self.underruns} underruns"
        if self.p99_step_ms is not None and self.frame_ms and self.p99_step_ms > STEP_SHARE * self.frame_ms:
            return f"p99 step up to {self.p99_step_ms:g} ms of a {self.frame_ms:g} ms frame"
        return ""


class Ramp:
    """Chooses what to hold next: doubles until there is trouble, then halves the interval between good and bad."""

    def __init__(self, limit: int, first: int = 1):
        if not 1 <= first <= limit:
            raise ValueError(f"a ramp from {first} to {limit} sessions is not possible")
        self.good, self.limit = 0, limit
        self._bad, self._next = limit + 1, first

    @property
    def next(self) -> int | None:
        """How many sessions to hold; None: the answer, `good`, is known."""
        return None if self._bad - self.good <= 1 else self._next

    def held(self, sustained: bool) -> None:
        """Note how holding `next` went."""
        if sustained:
            self.good = self._next
        else:
            self._bad = self._next
        middle = (self.good + self._bad) // 2
        self._next = min(2 * self.good, self.limit) if self._bad > self.limit else middle


def quantile_bound(before: Mapping[float, float], after: Mapping[float, float], share: float) -> float | None:
    """An upper bound of a quantile, from two readings of a cumulative histogram (bound -> count); None: nothing new."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    total = max(counts.values(), default=0.0)
    if total <= 0:
        return None
    return next((bound for bound, count in counts.items() if count >= share * total), math.inf)


def fairness(per_call: Sequence[float]) -> dict[str, Any]:
    """How alike calls fare, by a number of each: Jain's index (1: all alike, 1/n: one has it all), worst to median."""
    values = [value for value in per_call if value > 0]
    if not values:
        return {"n": 0, "jain": None, "worst_to_median": None}
    jain = sum(values) ** 2 / (len(values) * sum(value * value for value in values))
    return {"n": len(values), "jain": jain, "worst_to_median": max(values) / sorted(values)[(len(values) - 1) // 2]}


@dataclass(frozen=True)
class Overload:
    """An open loop of `factor` times N*.

    answers_ms: answer times of the turns of admitted calls; lost_turns: turns without an answer; per_call: one number
    of each admitted call; refusals_ms: from placing a call to its refusal; broken: admitted calls that broke off and
    connections that failed; recovery_s: from the end of the load to an admitted call.
    """

    factor: float
    offered: int
    answers_ms: Sequence[float]
    lost_turns: int
    per_call: Sequence[float]
    refusals_ms: Sequence[float]
    broken: int
    recovery_s: float | None
    client_cores: float = 0.0

    def report(self, base_p99_ms: float | None) -> dict[str, Any]:
        """Ready for JSON; `base_p99_ms` is that at N*."""
        answers, refusals = summarise(self.answers_ms, self.lost_turns), summarise(self.refusals_ms)
        p99 = answers["p99"]
        ratio = p99 / base_p99_ms if p99 is not None and base_p99_ms else None
        return {
            "factor": self.factor,
            "offered": self.offered,
            "admitted": len(self.per_call),
            "refused": len(self.refusals_ms),
            "broken": self.broken,
            "answer_ms": answers,
            "p99_to_base": ratio,
            "refusal_ms": refusals,
            "fairness": fairness(self.per_call),
            "recovery_s": self.recovery_s,
            "client_cores": self.client_cores,
            "holds": {
                "p99": ratio is not None and ratio <= SLOWER,
                "refusals": bool(self.refusals_ms) and max(self.refusals_ms) <= REFUSAL_MS,
                "recovery": self.recovery_s is not None and self.recovery_s <= RECOVERY_S,
            },
        }
