"""Answer times: how long after each turn of a caller the agent answers, from a recording of both on one clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from s2s.evaluation.audibility import Span, audible_spans
from s2s.evaluation.conversation import response_gaps
from s2s.evaluation.statistics import summarise

AGREE_MS = 50.0  # two onset detectors that differ by no more agree; a detector of voices has hops of 32 ms
_ECHO_S, _ECHO_TAIL_S = 1.0, 0.4  # an echo later than this is none; what of a turn is looked for
_SOUND = 1e-3  # of full scale
_ALIKE = 0.5  # correlation of an echo with what was said

Detector = Callable[[np.ndarray, int], Sequence[Span]]
"""Where a track [N] at a rate is speech."""


@dataclass(frozen=True)
class AnswerTime:
    """One turn of a caller, in milliseconds from the end of its speech; None: no answer.

    v2v_ms: to the first audible sample as played, by energy; voice_ms: the same by a detector of voices; ttfa_ms: to
    the first audio on the wire, audible or not; echo_ms: the delay of an echo as played; over_ms: what the answer of a
    known agent is late, at its arrival: without the playout buffer.
    """

    v2v_ms: float | None
    voice_ms: float | None = None
    ttfa_ms: float | None = None
    echo_ms: float | None = None
    over_ms: float | None = None


@dataclass(frozen=True)
class Expected:
    """A known agent: it answers `delay` samples after the caller's last sample above `level`, or repeats everything
    `delay` samples later (`echo`)."""

    delay: int
    echo: bool = False
    level: float = 0.01


@dataclass(frozen=True)
class Heard:
    """A recording to measure: caller and agent [N] and the caller's turns.

    arrivals: when each packet arrived and when it began to be heard, in samples.
    """

    caller: np.ndarray
    agent: np.ndarray
    sample_rate: int
    turns: Sequence[Span]
    arrivals: Sequence[tuple[int, int]] = field(default_factory=tuple)

    def waited(self, position: int) -> int:
        """How long what is heard at `position` waited in the playout buffer."""
        after = bisect_right(self.arrivals, position, key=lambda arrival: arrival[1])
        at, start = self.arrivals[after - 1] if after else (0, 0)
        return start - at


def answer_times(heard: Heard, voices: Detector | None = None, expected: Expected | None = None) -> list[AnswerTime]:
    """One per turn of the caller."""
    rate = heard.sample_rate
    gaps = response_gaps(heard.turns, audible_spans(heard.agent, rate))
    voiced = response_gaps(heard.turns, voices(heard.agent, rate)) if voices else [None] * len(gaps)
    times = []
    for turn, gap, voice in zip(heard.turns, gaps, voiced, strict=True):
        first = next((at for at, _ in heard.arrivals if at >= turn.end), None)
        echo = echo_delay(heard.caller, heard.agent, rate, turn) if expected and expected.echo else None
        over = None if expected is None else _over(heard, turn, gap, echo, expected)
        samples = (gap, voice, None if first is None else first - turn.end, echo, over)
        times.append(AnswerTime(*(None if value is None else value * 1000 / rate for value in samples)))
    return times


def _over(heard: Heard, turn: Span, gap: int | None, echo: int | None, expected: Expected) -> int | None:
    """Samples from when the answer of a known agent was due to when it arrived."""
    if expected.echo:
        return None if echo is None else echo - heard.waited(turn.end - 1 + echo) - expected.delay
    if gap is None:
        return None
    # Detectors have a grid of 10 ms; an answer that begins with a sound shows its first sample itself.
    hop = heard.sample_rate // 100
    around = turn.end + gap - hop
    begins = around + int(np.argmax(np.abs(heard.agent[around : around + 2 * hop]) > _SOUND))
    due = begins - heard.waited(begins) - expected.delay
    loud = np.flatnonzero(np.abs(heard.caller[: max(0, due)]) > expected.level)
    return due - int(loud[-1]) - 1 if len(loud) else None


def echo_delay(caller: np.ndarray, agent: np.ndarray, sample_rate: int, turn: Span) -> int | None:
    """Samples by which the agent repeats the end of a turn of the caller later, exactly; None where it does not.

    The last 0.4 s: where a hitch moved the rest of a turn, the end of speech is what counts.
    """
    start = max(turn.start, turn.end - round(_ECHO_TAIL_S * sample_rate))
    said = np.asarray(caller[start : turn.end], dtype=np.float64)
    back = np.asarray(agent[start : turn.end + round(_ECHO_S * sample_rate)], dtype=np.float64)
    if len(back) < len(said) or not len(said):
        return None
    size = 1 << (len(said) + len(back)).bit_length()
    products = np.fft.irfft(np.fft.rfft(back, size) * np.conj(np.fft.rfft(said, size)), size)
    best = int(np.argmax(products[: len(back) - len(said) + 1]))
    norm = float(np.linalg.norm(said) * np.linalg.norm(back[best : best + len(said)]))
    return best if norm > 0 and products[best] > _ALIKE * norm else None


def report(times: Sequence[AnswerTime], failures: int = 0, voices: bool = True) -> dict[str, Any]:
    """Every measure of many turns, ready for JSON; `failures`: turns of calls that failed, counted with each.

    `voices`: a detector of voices was at work.
    """

    def measure(values: list[float | None]) -> dict[str, Any]:
        found = [value for value in values if value is not None]
        return summarise(found, failures + len(values) - len(found))

    pairs = [(t.v2v_ms, t.voice_ms) for t in times if t.v2v_ms is not None and t.voice_ms is not None]
    result: dict[str, Any] = {
        "v2v_ms": measure([t.v2v_ms for t in times]),
        "wire_ttfa_ms": measure([t.ttfa_ms for t in times]),
        "early": sum(t.v2v_ms is not None and t.v2v_ms < 0 for t in times),
    }
    if voices:
        agree = sum(abs(energy - voice) <= AGREE_MS for energy, voice in pairs)
        result["v2v_voice_ms"] = measure([t.voice_ms for t in times])
        result["detectors_agree"] = {"within_ms": AGREE_MS, "n": len(pairs), "agree": agree}
    for name, values in (("echo_ms", [t.echo_ms for t in times]), ("overhead_ms", [t.over_ms for t in times])):
        if any(value is not None for value in values):
            result[name] = measure(values)
    return result
