"""Stats: what an engine counts, as plain numbers for whoever exports them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

BOUNDS_MS = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 60.0, 80.0, 160.0, 320.0, float("inf"))
_KEPT = 2000


@dataclass(frozen=True)
class EngineStats:
    """A snapshot.

    sessions: open now. free: how many more may open. ticks: of all groups, those with nothing to run too.
    deadline_misses: ticks that ended after the next one was due. left_out: ticks never made up for.
    step_ms: the latest times of a whole tick with sessions, live ones from when they were due; step_ms_counts: how
    many ever took up to each of `BOUNDS_MS` (cumulative); step_ms_sum: their sum. last_tick_s: monotonic time of the
    last tick, 0 before the first.
    phases: groups of sessions with own ticks. opened, refusals, failures, underruns: since the engine was made.
    """

    warm: bool
    running: bool
    sessions: int
    free: int
    ticks: int
    deadline_misses: int
    left_out: int
    step_ms: tuple[float, ...]
    step_ms_counts: tuple[int, ...]
    step_ms_sum: float
    last_tick_s: float
    opened: int
    refusals: int
    failures: int
    underruns: int
    threads: int
    buckets: tuple[int, ...]
    phases: int


class StepTimes:
    """Times of ticks: the latest ones and a histogram of all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: deque[float] = deque(maxlen=_KEPT)
        self._counts = [0] * len(BOUNDS_MS)
        self._sum = 0.0

    def add(self, milliseconds: float) -> None:
        with self._lock:
            self._latest.append(milliseconds)
            self._sum += milliseconds
            for i, bound in enumerate(BOUNDS_MS):
                self._counts[i] += milliseconds <= bound

    def snapshot(self) -> tuple[tuple[float, ...], tuple[int, ...], float]:
        """The latest times, cumulative counts and the sum."""
        with self._lock:
            return tuple(self._latest), tuple(self._counts), self._sum
