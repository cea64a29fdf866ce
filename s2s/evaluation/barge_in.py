"""Barge-in: a caller who speaks over the agent on purpose, and what the agent makes of it.

Four kinds of overlap: interruptions, which should stop the agent, and backchannels, side speech and noise, which should
not. The caller asks, waits until the agent speaks, speaks over it after a while, and listens to what comes of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from s2s.audio.level import loudest_dbfs
from s2s.audio.pcm import float_to_int16
from s2s.data.augment import room
from s2s.evaluation.audibility import audible_spans
from s2s.evaluation.conversation import stop_latency
from s2s.evaluation.given_calls import LEVEL_DB, GivenCall, normalise
from s2s.evaluation.statistics import proportion, summarise

Kind = Literal["interruption", "backchannel", "side_speech", "noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_BACKCHANNEL_S = 0.5
# Half of what callers do is to interrupt; the rest is what must not stop an agent.
MIX: tuple[Kind, ...] = ("interruption", "backchannel", "interruption", "side_speech", "interruption", "backchannel",
                         "interruption", "noise")  # fmt: skip
_AUDIBLE_DBFS = -50.0
_SIDE_DB, _NOISE_DB = -15.0, -10.0  # below the caller's own level
_OVER_S = (0.8, 1.6)  # of the agent's speech before the caller speaks over it
_PATIENCE_S, _QUIET_S, _SETTLE_S = 6.0, 1.2, 20.0


@dataclass(frozen=True)
class Clip:
    """What is said over the agent: float32 [N], audible from its first sample on."""

    kind: Kind
    name: str
    wav: np.ndarray


@dataclass
class Overlap:
    """An overlap as it happened, in samples of the caller's clock. until: the caller's next question, or the end."""

    kind: Kind
    clip: str
    start: int
    until: int = 0


def default_clips(recordings: Sequence[GivenCall], seed: int = 0) -> list[Clip]:
    """Clips of all kinds from recordings of callers: themselves, their short words, people far off, and noise."""
    chance, clips = np.random.default_rng(seed), list[Clip]()
    for recording in recordings:
        rate, turn = recording.sample_rate, recording.turns[0]
        speech = recording.caller[turn.start : turn.end]
        clips.append(Clip("interruption", recording.name, speech))
        clips += [Clip("backchannel", f"{recording.name}_{i}", word) for i, word in enumerate(_words(speech, rate))]
        far = normalise(room(speech, rate, 0.4, 3.0, chance), rate, LEVEL_DB + _SIDE_DB)
        clips.append(Clip("side_speech", f"{recording.name}_far", far))
        clips.append(Clip("noise", f"noise_{recording.name}", _noise(rate, chance)))
    return clips


def _words(speech: np.ndarray, rate: int) -> list[np.ndarray]:
    """Stretches of speech between two dips of its energy that are as short as a backchannel."""
    found = [speech[s.start : s.end] for s in audible_spans(speech, rate, bridge_ms=0)]
    return [_faded(word, rate) for word in found if 0.15 * rate <= len(word) < MAX_BACKCHANNEL_S * rate]


def _noise(rate: int, chance: np.random.Generator) -> np.ndarray:
    """A second of noise with as much power in every octave."""
    spectrum = np.fft.rfft(chance.standard_normal(rate))
    wav = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0)), rate)
    return (wav * 10 ** ((LEVEL_DB + _NOISE_DB) / 20) / np.sqrt(np.mean(np.square(wav)))).astype(np.float32)


def _faded(wav: np.ndarray, rate: int) -> np.ndarray:
    ramp = np.minimum(1.0, np.arange(1, len(wav) + 1) / (0.005 * rate))
    return (wav * ramp * ramp[::-1]).astype(np.float32)


class BargeInTalk:
    """The caller; `overlaps` is what it did, `unanswered` how often the agent never spoke."""

    def __init__(self, question: np.ndarray, clips: Sequence[Clip], sample_rate: int, seed: int = 0):
        """Args: question: what the agent answers, float [N]; clips: one overlap each, in this order."""
        self.overlaps: list[Overlap] = []
        self.unanswered = 0
        self._rate, self._question = sample_rate, float_to_int16(question)
        self._clips, self._chance = list(clips), random.Random(seed)
        self._playing, self._at = np.zeros(0, np.int16), 0  # what the caller says now
        self._state: Literal["ask", "wait", "over", "settle"] = "ask"
        self._since = 0
        self._agent = self._quiet = 0  # samples of the agent's speech and of its silence, in a row
        self._wanted = 0

    def say(self, start: int, heard: np.ndarray) -> np.ndarray | None:
        """The packet that begins at `start`, as long as `heard`, what the agent said during the one before."""
        audible = loudest_dbfs(heard, self._rate // 100) > _AUDIBLE_DBFS
        self._quiet = 0 if audible else self._quiet + len(heard)
        # A pause between two words is still the agent's speech.
        self._agent = self._agent + len(heard) if self._quiet < 0.3 * self._rate and (audible or self._agent) else 0
        if self._at >= len(self._playing) and not self._next(start):
            return None
        packet = self._playing[self._at : self._at + len(heard)]
        self._at += len(packet)
        return np.pad(packet, (0, len(heard) - len(packet)))

    def _next(self, start: int) -> bool:
        """Nothing is being said: go on, unless everything is done."""
        waited = start - self._since
        if self._state == "ask":
            if not self._clips:
                return False
            self._begin("wait", start, self._question)
            self._wanted = round(self._chance.uniform(*_OVER_S) * self._rate)
        elif self._state == "wait":
            if self._agent >= self._wanted:
                clip = self._clips.pop(0)
                self.overlaps.append(Overlap(clip.kind, clip.name, start))
                self._begin("settle", start, float_to_int16(clip.wav))
            elif waited > _PATIENCE_S * self._rate + len(self._question):
                self.unanswered += 1
                self._clips.pop(0)
                self._begin("settle", start)
        elif self._quiet >= _QUIET_S * self._rate or waited > _SETTLE_S * self._rate:
            if self.overlaps and not self.overlaps[-1].until:
                self.overlaps[-1].until = start
            self._begin("ask", start)
        return True

    def _begin(self, state: Literal["ask", "wait", "settle"], start: int, saying: np.ndarray | None = None) -> None:
        self._state, self._since = state, start
        self._playing, self._at = np.zeros(0, np.int16) if saying is None else saying, 0


@dataclass(frozen=True)
class Outcome:
    """One overlap: how long the agent went on in ms (None: it was not speaking), and whether it gave way within 2 s."""

    kind: Kind
    clip: str
    stop_ms: float | None
    yielded: bool


def outcomes(agent: np.ndarray, sample_rate: int, overlaps: Sequence[Overlap]) -> list[Outcome]:
    """What the agent's track [N], as played, shows about each overlap.

    An answer that happens to end by itself within 2 s cannot be told from one that was stopped; let answers be longer.
    """
    found = []
    for overlap in overlaps:
        stop = stop_latency(agent[: overlap.until or len(agent)], sample_rate, overlap.start)
        stop_ms = None if stop is None else stop.latency * 1000 / sample_rate
        found.append(Outcome(overlap.kind, overlap.clip, stop_ms, stop is not None and stop.yielded))
    return found


def report(found: Sequence[Outcome], failures: int = 0) -> dict[str, Any]:
    """Stop latency of interruptions (failures: not stopped within 2 s, lost in failed calls), yield, selectivity."""
    interruptions = [o for o in found if o.kind == "interruption" and o.stop_ms is not None]
    stops = [o.stop_ms for o in interruptions if o.yielded and o.stop_ms is not None]
    return {
        "events": len(found),
        "lost": failures,
        "not_over_speech": sum(o.stop_ms is None for o in found),
        "stop_ms": summarise(stops, len(interruptions) - len(stops) + failures),
        "yield": proportion(len(stops), len(interruptions)),
        "selectivity": {kind: _held(found, kind) for kind in KINDS if kind != "interruption"},
    }


def _held(found: Sequence[Outcome], kind: Kind) -> dict[str, Any]:
    """How often the agent did not give way."""
    over = [o for o in found if o.kind == kind and o.stop_ms is not None]
    return proportion(sum(not o.yielded for o in over), len(over))
