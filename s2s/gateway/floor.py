"""The floor: who is speaking, the caller or the agent, and who gives way.

The model speaks when it likes. Out of its continuous sound the floor makes answers (from the first audible sample to a
pause), and protects the caller's right to interrupt whatever the model does:

- a sudden sound of the caller over the agent: the agent is turned down at once (*ducked*), before anybody can know
  whether it is speech, and comes back if it is not;
- the caller speaks for `confirm_ms`: the agent is stopped, its answer ends, and what the model still says of it is not
  sent. The floor opens again when the caller is silent and the model has paused meanwhile, or when the model talks on
  though the caller has long finished;
- the caller stops before (a backchannel, a cough): the agent comes back to level, its answer goes on.

A caller who spoke first is not interrupting: then it is the agent that came in, and the model's own affair; but one who
goes on after a silence in which the agent began is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from s2s.audio.level import Fader, loudest_dbfs
from s2s.gateway.turns import Heard
from s2s.gateway.voice import HOP_MS

_WORD_GAP_MS = 200  # an agent silent for less is speaking


@dataclass(frozen=True)
class FloorConfig:
    """audible_dbfs: quieter 10 ms blocks of the agent are silence. pause_ms: silence that ends an answer.

    duck_db: below the agent's own level, where nobody calls it audible any more. alert_ms: of a sudden sound until it
    has to be speech. confirm_ms: speech of the caller that stops the agent. release_ms: silence of the caller that
    brings the agent back. reopen_pause_ms: of the agent. reopen_after_caller_ms: of the caller's silence, for an agent
    that does not pause. absent_ms: without any audio, the caller is silent. breath_ms: the caller's silence after which
    more speech of the same turn counts as a new start; an echo of the caller has fallen silent before two thirds of it
    are over. answer_wait_ms: how long an answer that the client asked for may take to begin.
    """

    audible_dbfs: float = -50.0
    pause_ms: int = 600
    duck_db: float = 32.0
    ramp_ms: int = 10
    alert_ms: int = 160
    confirm_ms: int = 600
    release_ms: int = 64
    reopen_pause_ms: int = 160
    reopen_after_caller_ms: int = 1000
    absent_ms: int = 400
    breath_ms: int = 224
    answer_wait_ms: int = 10000


Stopped = Literal["turn_detected", "client_cancelled"]


@dataclass(frozen=True)
class Started:
    """An answer begins, before the audio of the same step."""


@dataclass(frozen=True)
class Finished:
    """The answer is over, after the audio of the same step."""

    played_ms: int


@dataclass
class _Answer:
    requested: bool
    sent: int = 0  # samples
    silent: int = 0  # samples since the last audible one
    heard: bool = False  # anything audible yet
    onset_ms: int = 0  # when it became audible, on the caller's clock


class Floor:
    """Of one call. `heard_ms` is the clock: milliseconds of the caller's audio received."""

    def __init__(self, sample_rate: int, config: FloorConfig | None = None):
        self.config = config or FloorConfig()
        self._rate, self._block = sample_rate, sample_rate // 100
        self._fader = Fader(sample_rate * self.config.ramp_ms // 1000)
        self._duck_gain = 10 ** (-self.config.duck_db / 20)
        self._answer: _Answer | None = None
        self._shut: Stopped | None = None  # nothing of the agent is sent
        self._pause = 0  # samples of the agent's silence in a row while shut
        self._paused = False  # it has been long enough
        self._absent = 0  # samples of the agent since the last hop of the caller
        self._over_agent = False  # this turn of the caller began over the agent
        self._in_turn = False
        self._speech_ms = self._quiet_ms = 0  # of the caller, in a row
        self._calm_ms = 0  # since anything that turns the agent down
        self._unexplained_ms = 0  # of sudden sound that is not speech so far

    @property
    def answering(self) -> bool:
        return self._answer is not None

    @property
    def requested(self) -> bool:
        """Whether the client asked for the answer that is going on."""
        return self._answer is not None and self._answer.requested

    @property
    def over_agent(self) -> bool:
        """Whether the caller's present turn began over the agent, whose answer goes on."""
        return self._over_agent and self._answer is not None

    @property
    def ducked(self) -> bool:
        return self._fader.target < 1.0 and self._shut is None

    @property
    def shut(self) -> bool:
        """Whether the agent is kept from the caller, sound and words."""
        return self._shut is not None

    @property
    def played_ms(self) -> int:
        return 0 if self._answer is None else 1000 * self._answer.sent // self._rate

    def request(self, unheard: int = 0) -> None:
        """Begin an answer by the client's wish, or make the present one so; `unheard`: samples the model has to hear.

        There must be no answer that was asked for.
        """
        assert not self.requested
        if self._answer is None:
            self._answer = _Answer(requested=True, silent=-unheard)
        self._answer.requested = True
        self._open()

    def cancel(self, reason: Stopped) -> int | None:
        """Stop the answer; its played milliseconds, or None where there is none."""
        if self._answer is None:
            return None
        played_ms, self._answer = self.played_ms, None
        self._shut, self._pause, self._paused = reason, 0, False
        self._fader.fade_to(0.0)
        return played_ms

    def caller(self, heard: Heard, interrupts: bool) -> bool:
        """One hop of the caller. True: the caller has taken the floor, the answer is to be cancelled."""
        if heard.started_ms is not None:
            self._in_turn, self._over_agent = True, self._speaks_before(heard.onset_ms)
        elif heard.speech and self._quiet_ms >= self.config.breath_ms:
            self._over_agent = self._over_agent or self._audible_within(self.config.breath_ms // 3)
        if heard.stopped_ms is not None:
            self._in_turn = False
        alert = self._is_alert(heard)
        self._absent = 0
        self._speech_ms += HOP_MS if heard.speech else 0
        self._quiet_ms = 0 if heard.speech else self._quiet_ms + HOP_MS
        self._calm_ms = 0 if heard.speech or alert else self._calm_ms + HOP_MS
        self._release()
        if not interrupts or self._answer is None:
            return False
        if self._over_agent and heard.speech and self._speech_ms >= self.config.confirm_ms:
            return True
        if (alert or (self._over_agent and heard.speech)) and self._audible_within(_WORD_GAP_MS) and not self.ducked:
            self._fader.fade_to(self._duck_gain)
        return False

    def _is_alert(self, heard: Heard) -> bool:
        """Whether a sudden sound over the agent may become speech: not once it has lasted and did not."""
        if heard.speech:
            self._unexplained_ms = 0
            return False
        if not heard.sudden:
            self._unexplained_ms = max(0, self._unexplained_ms - HOP_MS)
            return False
        self._unexplained_ms += HOP_MS
        if self._unexplained_ms > self.config.alert_ms:
            self._unexplained_ms = 2 * self.config.alert_ms
            return False
        return self._speaks_before(heard.onset_ms) and (self._over_agent or not self._in_turn)

    def agent(self, pcm: NDArray[np.int16], heard_ms: int) -> tuple[NDArray[np.int16], Started | None, Finished | None]:
        """One step of the model -> what the caller gets, whether an answer starts with it, whether one ends after."""
        audible = loudest_dbfs(pcm, self._block) > self.config.audible_dbfs
        self._absent += len(pcm)
        if 1000 * self._absent > self.config.absent_ms * self._rate:
            self._quiet_ms += 1000 * len(pcm) // self._rate
            self._calm_ms = max(self._calm_ms, self._quiet_ms)
            self._release()
        if self._shut is not None:
            self._pause = 0 if audible else self._pause + len(pcm)
            self._paused = self._paused or 1000 * self._pause >= self.config.reopen_pause_ms * self._rate
            if not self._may_open():
                return self._fader.process(pcm), None, None
            self._open()
        started = None
        if self._answer is None and audible:
            self._answer, started = _Answer(requested=False), Started()
        if self._answer is None:
            return self._fader.process(pcm), None, None
        self._count(self._answer, len(pcm), audible, heard_ms)
        finished = Finished(self.played_ms) if self._is_over(self._answer) else None
        if finished:
            self._answer = None
            self._fader.fade_to(1.0)
        return self._fader.process(pcm), started, finished

    def _count(self, answer: _Answer, size: int, audible: bool, heard_ms: int) -> None:
        answer.sent += size
        answer.silent = 0 if audible else answer.silent + size
        if audible and not answer.heard:
            answer.heard, answer.onset_ms = True, heard_ms

    def _is_over(self, answer: _Answer) -> bool:
        limit_ms = self.config.pause_ms if answer.heard else self.config.answer_wait_ms
        return 1000 * answer.silent >= limit_ms * self._rate

    def _speaks_before(self, onset_ms: int) -> bool:
        return self._answer is not None and self._audible_within(_WORD_GAP_MS) and self._answer.onset_ms < onset_ms

    def _audible_within(self, milliseconds: int) -> bool:
        answer = self._answer
        return answer is not None and answer.heard and 1000 * answer.silent < milliseconds * self._rate

    def _may_open(self) -> bool:
        if self._shut == "client_cancelled":
            return self._paused
        silent_ms = self.config.release_ms if self._paused else self.config.reopen_after_caller_ms
        return self._quiet_ms > silent_ms

    def _release(self) -> None:
        """Bring the agent back if the caller is silent."""
        if self._quiet_ms > self.config.release_ms:
            self._speech_ms = 0
        if self._calm_ms > self.config.release_ms and self.ducked:
            self._fader.fade_to(1.0)

    def _open(self) -> None:
        self._shut = None
        self._fader.fade_to(1.0)


class Words:
    """Text of the agent on its way: it runs ahead of the sound, so what comes before an answer waits for it."""

    def __init__(self, max_chars: int = 2000):
        self._waiting: list[tuple[str, int]] = []
        self._max_chars = max_chars

    def add(self, text: str, position_ms: int) -> None:
        self._waiting.append((text, position_ms))
        while sum(len(text) for text, _ in self._waiting) > self._max_chars:
            self._waiting.pop(0)

    def take(self) -> Iterator[tuple[str, int]]:
        waiting, self._waiting = self._waiting, []
        yield from waiting

    def drop(self) -> None:
        self._waiting = []
