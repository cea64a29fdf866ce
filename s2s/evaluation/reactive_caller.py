"""Reactive caller: goes through a script by listening to the agent, as a person on the telephone would.

The next turn begins when the agent has finished, or at a set time of its reply; an agent that never answers is given up
after a while. Times in samples of the caller's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from s2s.evaluation.line import Line

When = Literal["start", "after", "over"]
Kind = Literal["turn", "backchannel", "side_speech", "noise", "silence"]

PATIENCE_S = 5.0  # without any answer, less than the six seconds after which an agent asks by itself
SILENCE_S = 9.0  # how long a caller who keeps silent waits for the agent to ask
HOLD_S = 0.6  # an agent that is quiet for so long has finished: it pauses for less between two sentences
LONGEST_REPLY_S = 20.0
TAIL_S = 2.2
LATE_S = 0.8  # after the agent's end, where it ended before it could be spoken over
_AUDIBLE = 10 ** (-50 / 20)


@dataclass(frozen=True)
class Move:
    """One thing that a caller does.

    wav: what is said, float32 [N]; nothing for a silence. when: at a time of the call ("start"), behind the agent's
    reply to the move before ("after") or from a time of it on ("over"); delay_s counts from there.
    """

    kind: Kind
    wav: np.ndarray = field(repr=False)
    when: When
    delay_s: float


@dataclass(frozen=True)
class Done:
    """A move as it happened: number `index` of the script, from sample `start` to `end`."""

    index: int
    start: int
    end: int


class ReactiveCaller:
    """A caller for `live_calls`. `done` are the moves so far, `clean` is what was said before the line took it."""

    def __init__(self, moves: Sequence[Move], line: Line, sample_rate: int, opening: bool, seed: int = 0):
        self.opening, self.seed = opening, seed
        self.done: list[Done] = []
        self.clean: list[np.ndarray] = []
        self._moves, self._line, self._rate = moves, line, sample_rate
        self._next = 0
        self._pending = np.zeros(0, np.float32)  # what is being said, from the next packet on
        self._busy_until = 0
        # The agent's speech since the end of the move before: its first and its last audible sample.
        self._since, self._onset, self._last = 0, -1, 0
        self._patience = self._samples(PATIENCE_S)

    def say(self, start: int, heard: np.ndarray) -> np.ndarray | None:
        """The next packet; see `live_calls.Talks`."""
        self._listen(start - len(heard), heard)
        if start >= self._busy_until and not self._decide(start, len(heard)):
            return None
        packet = np.zeros(len(heard), np.float32)
        said, self._pending = self._pending[: len(heard)], self._pending[len(heard) :]
        packet[: len(said)] = said
        self.clean.append(packet)
        return self._line.carry(start, packet)

    def _listen(self, start: int, heard: np.ndarray) -> None:
        hop = self._rate // 100
        levels = np.sqrt(np.mean(np.square(heard[: len(heard) // hop * hop].reshape(-1, hop)), axis=1))
        for number in np.flatnonzero(levels > _AUDIBLE):
            at = start + int(number) * hop
            if at >= self._since and self._onset < 0:
                self._onset = at
            self._last = at + hop

    def _decide(self, start: int, size: int) -> bool:
        """Begin the next move if its time comes within this packet; False: there is nothing left to do."""
        while self._next < len(self._moves):
            move = self._moves[self._next]
            at = self._begins(move, start)
            if at is None or at >= start + size:
                return True
            if move.kind not in ("turn", "silence") and not self._speaking(start):
                self._next += 1  # there is nothing to nod at any more
                continue
            self._begin(move, max(at, start) if move.kind != "silence" else self._last, start)
            if move.kind != "silence":
                return True
        return not self._finished(start, TAIL_S)

    def _begins(self, move: Move, now: int) -> int | None:
        if move.when == "start":
            return self._samples(move.delay_s)
        if self._onset < 0:
            return now if now - self._since >= self._patience else None
        if move.when == "over" and self._speaking(now):
            return self._onset + self._samples(move.delay_s)
        delay_s = LATE_S if move.when == "over" else move.delay_s
        if self._finished(now, delay_s):
            return now
        return None if self._speaking(now) else self._last + self._samples(delay_s)

    def _speaking(self, now: int) -> bool:
        return self._onset >= 0 and now - self._last < self._samples(HOLD_S)

    def _finished(self, now: int, delay_s: float) -> bool:
        """Whether the agent has answered and been quiet for `delay_s`, or will not answer or not end."""
        if self._onset < 0:
            return now - self._since >= self._patience
        return now - self._last >= self._samples(delay_s) or now - self._since > self._samples(LONGEST_REPLY_S)

    def _begin(self, move: Move, at: int, now: int) -> None:
        wav = self._line.voice(move.wav)
        self.done.append(Done(self._next, at, at + len(wav)))
        self._next += 1
        if len(wav):
            self._pending = np.concatenate([np.zeros(at - now, np.float32), wav])
            self._busy_until = at + len(wav)
        if move.kind in ("turn", "silence"):
            self._since, self._onset = at + len(wav), -1
            self._patience = self._samples(SILENCE_S if move.kind == "silence" else PATIENCE_S)

    def _samples(self, seconds: float) -> int:
        return round(seconds * self._rate)
