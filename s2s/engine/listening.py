"""What a session has heard and the model has not: the caller's audio between two ticks."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

_PACKET_MS = 20  # what is repeated where input is missing
_FADE_MS = 60  # a packet repeated any longer sounds like a machine
_PAUSE_MS = 500  # input missing for longer is not late: the caller sends none
_LAG_MS = 40  # what may wait to even out a network; more is caught up when the caller is quiet
_QUIET = 100  # int16 root mean square, -50 dB of full scale


class InputQueue:
    """Samples of any packet size in, whole steps out. Not thread-safe: its session holds the lock.

    A live tick cannot wait. Where samples are missing it repeats the last packet, fading, then silence; what arrives
    too late for its step is still heard, so that no word is lost, and the delay this leaves behind is made up for by
    leaving out quiet steps. What waits beside the first step of a caller would wait for the whole call, so a quiet
    packet of it is left out too.
    """

    def __init__(self, step_size: int, sample_rate: int):
        self.step_size = step_size
        self.size = 0  # samples that wait
        self.underruns = 0
        self.skipped = 0  # samples left out to catch up
        self._chunks: deque[NDArray[np.int16]] = deque()
        self._packet = max(1, sample_rate * _PACKET_MS // 1000)
        self._fade = max(1, sample_rate * _FADE_MS // 1000)
        self._pause = sample_rate * _PAUSE_MS // 1000
        self._lag = sample_rate * _LAG_MS // 1000
        self._last = np.zeros(0, dtype=np.int16)  # the newest samples heard, at most a packet
        self._missing = self._pause  # samples missing since the last one heard; at first the caller has not begun
        self._owed = 0  # samples behind, at most

    def push(self, pcm: NDArray[np.int16]) -> None:
        """Append samples [N]."""
        if len(pcm):
            self._chunks.append(pcm)
            self.size += len(pcm)

    @property
    def has_step(self) -> bool:
        return self.size >= self.step_size

    def take(self) -> NDArray[np.int16]:
        """The next step as it is [step_size]; there must be one."""
        assert self.has_step
        return self._heard(self.step_size)

    def take_now(self) -> NDArray[np.int16]:
        """The next step [step_size] of a call that cannot wait: caught up where late, concealed where missing."""
        while (
            self._owed >= self.step_size
            and self.size >= self._lag + 2 * self.step_size
            and self._is_quiet(self.step_size)
        ):
            self._pop(self.step_size)
            self._owed -= self.step_size
            self.skipped += self.step_size
        if self.has_step:
            if self._missing >= self._pause:
                self._leave_out_packet()
            return self._heard(self.step_size)
        if self._missing >= self._pause:  # a caller begins, or goes on after a pause, with a whole step
            return np.zeros(self.step_size, dtype=np.int16)
        self.underruns += 1
        heard = self._heard(self.size) if self.size else np.zeros(0, dtype=np.int16)
        return np.concatenate([heard, self._conceal(self.step_size - len(heard))])

    def owe(self, count: int) -> None:
        """Note samples that passed without being heard; they may be caught up as far as they arrive."""
        self._owed = min(self._owed + count, self._pause)

    def clear(self) -> None:
        """Forget what waits."""
        self._chunks.clear()
        self.size = 0

    def _heard(self, count: int) -> NDArray[np.int16]:
        pcm = self._pop(count)
        self._missing = 0
        self._last = np.concatenate([self._last, pcm[-self._packet :]])[-self._packet :]
        return pcm

    def _conceal(self, count: int) -> NDArray[np.int16]:
        at = self._missing + np.arange(count)
        gain = np.clip(1 - at / self._fade, 0, 1)
        self._missing += count
        self.owe(count)
        return (self._last[at % len(self._last)] * gain).astype(np.int16)

    def _leave_out_packet(self) -> None:
        """Where packets are short: whoever sends longer ones needs what waits to bridge the time to the next."""
        extra = self.size - self.step_size
        if 0 < extra <= self._packet and max(map(len, self._chunks)) <= self._packet and self._is_quiet(extra):
            self._pop(extra)
            self.skipped += extra

    def _is_quiet(self, count: int) -> bool:
        pcm = self._pop(count)
        self._chunks.appendleft(pcm)
        self.size += count
        return bool(np.sqrt(np.mean(pcm.astype(np.float32) ** 2)) < _QUIET)

    def _pop(self, count: int) -> NDArray[np.int16]:
        parts, wanted = [], count
        while wanted:
            chunk = self._chunks.popleft()
            if len(chunk) > wanted:
                self._chunks.appendleft(chunk[wanted:])
                chunk = chunk[:wanted]
            parts.append(chunk)
            wanted -= len(chunk)
        self.size -= count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
