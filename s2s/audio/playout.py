"""Playout: what a listener hears of audio packets, given when they arrive. No clock of its own, no sound card."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LAG_MS = 40  # what may wait beyond the buffer before silence is left out
_QUIET = 33  # of int16, -60 dB of full scale


class Playout:
    """Plays packets one after the other; the first one, and one that finds nothing left to play, waits for the buffer.

    Times are samples of the listener's clock. What is heard until now does not change by what arrives from now on.
    """

    def __init__(self, sample_rate: int, buffer_ms: int = 0, catch_up: bool = False):
        """Args: catch_up: make up for the delay that late packets leave behind by leaving out packets of silence.

        That is right for sound at the pace of time, where one hitch would stay until the end of the call; a sender who
        is ahead of time means its pauses.
        """
        if buffer_ms < 0:
            raise ValueError(f"a playout buffer of {buffer_ms} ms is not possible, allowed is 0 and above")
        self.underruns = 0  # how often nothing was left in the middle of the sound
        self.missing = 0  # samples of silence that this made
        self.skipped = 0  # samples of silence left out to catch up
        self._buffer, self._catch_up = sample_rate * buffer_ms // 1000, catch_up
        self._lag = self._buffer + sample_rate * _LAG_MS // 1000
        self._track = np.zeros(sample_rate, dtype=np.int16)
        self._end = 0  # of what is played and queued
        self._more = False  # whether the sound goes on behind what is queued

    def receive(self, at: int, pcm: NDArray[np.int16]) -> int:
        """A packet [N] arrives at `at`; when it begins to be heard."""
        at = max(at, 0)
        if self._catch_up and self._end - at > self._lag and np.abs(pcm.astype(np.int32)).max(initial=0) <= _QUIET:
            self.skipped += len(pcm)
            return self._end
        dry = at > self._end or (at == self._end and not self._more)
        start = at + self._buffer if dry else self._end
        if dry and self._more:
            self.underruns += 1
            self.missing += start - self._end
        self._grow(start + len(pcm))
        self._track[start : start + len(pcm)] = pcm
        self._end, self._more = start + len(pcm), True
        return start

    def pause(self) -> None:
        """What is queued is all for now: the silence behind it is meant."""
        self._more = False

    def clear(self, at: int) -> None:
        """Drop what is not played at `at`."""
        at = max(at, 0)
        if at < self._end:
            self._track[at : self._end] = 0
            self._end = at
        self._more = False

    def heard(self, start: int, stop: int) -> NDArray[np.int16]:
        """What is heard between two times [stop - start]."""
        self._grow(stop)
        return self._track[start:stop].copy()

    def _grow(self, size: int) -> None:
        if size > len(self._track):
            longer = np.zeros(max(size, 2 * len(self._track)), dtype=np.int16)
            longer[: len(self._track)] = self._track
            self._track = longer
