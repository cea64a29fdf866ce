"""Session: one conversation as its caller's side sees it. Samples and text in and out, from any thread, no waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from s2s.engine.listening import InputQueue


@dataclass(frozen=True)
class Audio:
    """What the agent says in one step: pcm int16 [step_size].

    `position` is the index of its first sample on the session's output clock, which counts samples at `sample_rate`.
    """

    pcm: NDArray[np.int16]
    position: int


@dataclass(frozen=True)
class Text:
    """What one step adds to a text stream, "user_text" or "agent_text", with spaces as the tokenizer has them.

    `position` is that of the audio of the same step.
    """

    stream: str
    text: str
    position: int


@dataclass(frozen=True)
class Act:
    """What the agent does beside speaking, one of the tokenizer's actions, such as a hand-off.

    `position` is that of the audio of the same step, which may still be what was said before it.
    """

    name: str
    position: int


@dataclass(frozen=True)
class Ended:
    """The last event of every session. `error` says why it failed."""

    reason: Literal["closed", "failed", "engine stopped"]
    error: str = ""


Event = Audio | Text | Act | Ended


class BufferFull(RuntimeError):
    """More input waits than the engine is willing to keep; nothing of the refused packet was taken."""


@dataclass(frozen=True)
class SessionConfig:
    """How the agent of one session samples; None: as the model likes it.

    opening: the agent speaks first, with its opening, or waits for the caller; None: the session does not begin until
    `Session.begin` decides it.
    """

    temperature: float | None = None
    top_k: int | None = None
    seed: int = 0
    opening: bool | None = True


@dataclass(frozen=True)
class SessionStats:
    """What happened so far: steps done, steps with concealed input, samples left out to catch up, samples waiting."""

    ticks: int
    underruns: int
    skipped_samples: int
    buffered_samples: int


class Session:
    """Opened by `Engine.open`. `push` what the caller says, `pull` what happened, `close` at the end.

    `on_events` is called, without arguments, after events were added: from the engine's thread, so it must only wake
    somebody up. A session whose `on_events` raises is closed alone.
    """

    def __init__(
        self,
        name: str,
        sample_rate: int,
        step_size: int,
        max_buffered: int,
        max_unread: int,
        opening: bool | None = True,
    ):
        """Args: max_buffered, max_unread: samples of input and of output that may wait. opening: see the config."""
        self.id, self.sample_rate, self.step_size = name, sample_rate, step_size
        self.on_events: Callable[[], None] | None = None
        self._max_buffered, self._max_unread = max_buffered, max_unread
        self._lock = threading.Lock()
        self._input = InputQueue(step_size, sample_rate)
        self._events: list[Event] = []
        self._unread = 0  # samples of audio among the events
        self._ticks = 0
        self._closing = self._ended = False
        self._opening = opening
        self._ready_s: float | None = None

    def begin(self, opening: bool) -> None:
        """Decide whether the agent speaks first, where it was left open; ignored once it is decided."""
        with self._lock:
            if self._opening is None:
                self._opening = opening

    @property
    def opening(self) -> bool | None:
        """Whether the agent speaks first; None: not decided, and the session does not begin."""
        with self._lock:
            return self._opening

    def push(self, pcm: NDArray[np.int16]) -> None:
        """Take in int16 samples [N] at `sample_rate`, any N. After the end they are ignored.

        Raises:
            ValueError: another dtype or shape.
            BufferFull: more than the engine's `max_buffered_s` would wait to be heard.
        """
        if not isinstance(pcm, np.ndarray) or pcm.dtype != np.int16 or pcm.ndim != 1:
            found = f"{pcm.dtype} {list(pcm.shape)}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
            raise ValueError(f"a session takes samples as int16 [N], got {found}")
        with self._lock:
            if self._closing or self._ended:
                return
            if self._input.size + len(pcm) > self._max_buffered:
                raise BufferFull(f"{self._input.size} samples wait, {len(pcm)} more exceed {self._max_buffered}")
            self._input.push(pcm.copy())
            if self._ready_s is None and self._input.has_step:
                self._ready_s = time.monotonic()

    def pull(self) -> list[Event]:
        """All events since the last call, oldest first."""
        with self._lock:
            events, self._events, self._unread = self._events, [], 0
            return events

    def close(self) -> None:
        """End the session at the next tick; may be called again."""
        with self._lock:
            self._closing = True

    @property
    def closing(self) -> bool:
        """Whether nothing more will be said: closed by the caller's side, or ended."""
        with self._lock:
            return self._closing or self._ended

    @property
    def stats(self) -> SessionStats:
        with self._lock:
            heard = self._input
            return SessionStats(self._ticks, heard.underruns, heard.skipped, heard.size)

    @property
    def ready_s(self) -> float | None:
        """Since when, in monotonic time, the caller's first step is complete; None: it is not."""
        with self._lock:
            return self._ready_s

    # What follows is for the engine, whose thread is the only one to call it.

    def next_step(self, wait: bool) -> NDArray[np.int16] | None:
        """The caller's next step [step_size]; one that is missing is concealed, or None where the engine can wait."""
        with self._lock:
            if not wait:
                return self._input.take_now()
            return self._input.take() if self._input.has_step else None

    def add(self, pcm: NDArray[np.int16], text: dict[str, str], action: str | None = None) -> None:
        """Add what one step said, pcm [step_size] and text per stream, and did, and tell `on_events`.

        Raises:
            RuntimeError: nobody pulls the events.
        """
        with self._lock:
            if self._unread + len(pcm) > self._max_unread:
                raise RuntimeError(f"nobody pulled the last {self._unread / self.sample_rate:.1f} s of audio")
            position = self._ticks * self.step_size
            self._events.append(Audio(pcm, position))
            self._events += [Text(stream, added, position) for stream, added in text.items() if added]
            self._events += [Act(action, position)] if action is not None else []
            self._unread += len(pcm)
            self._ticks += 1
        self._tell()

    def fell_behind(self, steps: int) -> None:
        """Note that the session was left out of so many steps, whose input now waits too long."""
        with self._lock:
            self._input.owe(steps * self.step_size)

    def end(self, reason: Literal["closed", "failed", "engine stopped"], error: str = "") -> None:
        """Add the last event, once."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._input.clear()
            self._events.append(Ended(reason, error))
        self._tell()

    def _tell(self) -> None:
        if (on_events := self.on_events) is not None:
            on_events()
