"""Full-Duplex-Bench v1: pauses, turns, interruptions and backchannels, from the words of an agent's recording.

Lin et al., "Full-Duplex-Bench" (arXiv:2503.04721): the output is time-synchronous with the input; a takeover is any
reply but one of at most 3 words within less than 1 s; an early start counts as a latency of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from s2s.data.schema import Word
from s2s.evaluation.audibility import Span
from s2s.evaluation.conversation import takeover
from s2s.evaluation.statistics import proportion, summarise

Task = Literal["pause_handling", "turn_taking", "interruption", "backchannel"]
TASKS: tuple[Task, ...] = get_args(Task)
_WINDOW_S = 0.2  # of the distribution of backchannels over time
_LONG_S, _SHORT_S, _SHORT_WORDS = 3.0, 1.0, 2
_EPSILON = 1e-10


@dataclass(frozen=True)
class Sample:
    """A pair of recordings, as far as it counts: the agent's words and audible spans, and what the caller does.

    turn_end_s: the end of the caller's turn, or of its interruption. duration_s: of the recording. people: how people's
    backchannels are spread over it, in windows of equal length; None: unknown.
    """

    name: str
    task: Task
    words: Sequence[Word]
    duration_s: float
    turn_end_s: float | None = None
    spans: Sequence[Span] = ()
    sample_rate: int = 16000
    people: Sequence[float] | None = None


@dataclass(frozen=True)
class Score:
    """takeover: 0 or 1. latency_s: of a takeover, not below 0; early: it began before the caller had ended."""

    name: str
    task: Task
    takeover: int
    latency_s: float | None = None
    early: bool = False
    backchannels: int = 0
    per_s: float | None = None
    divergence: float | None = None


def score(sample: Sample) -> Score:
    """Raises ValueError where the task needs the end of the caller's turn and the sample does not have it."""
    if sample.task == "backchannel":
        return _score_backchannels(sample)
    if sample.task == "pause_handling":
        return Score(sample.name, sample.task, takeover(sample.words))
    if sample.turn_end_s is None:
        raise ValueError(f"{sample.name}: {sample.task} needs the end of the caller's turn")
    words = list(sample.words)
    if sample.task == "interruption":  # what the agent said before it was interrupted is no answer to it
        words = [word for word in words if word.start_s >= sample.turn_end_s]
    if not takeover(words):
        return Score(sample.name, sample.task, 0)
    gap = min(word.start_s for word in words) - sample.turn_end_s
    return Score(sample.name, sample.task, 1, max(0.0, gap), gap < 0)


def _score_backchannels(sample: Sample) -> Score:
    """The agent while it should listen: short words are backchannels, three seconds on end are a takeover."""
    rate, short, taken = sample.sample_rate, list[Span](), 0
    for span in sample.spans:
        seconds = (span.end - span.start) / rate
        taken = max(taken, int(seconds >= _LONG_S))
        count = sum(span.start <= (w.start_s + w.end_s) / 2 * rate < span.end for w in sample.words)
        if seconds < _SHORT_S and count <= _SHORT_WORDS:
            short.append(span)
    per_s = len(short) / sample.duration_s if sample.duration_s else None
    divergence = None
    if sample.people is not None:
        size = max(1, round(sample.duration_s / _WINDOW_S))
        divergence = jensen_shannon(_spread(short, rate, size), _stretched(sample.people, size))
    return Score(sample.name, "backchannel", taken, backchannels=len(short), per_s=per_s, divergence=divergence)


def _spread(spans: Sequence[Span], rate: int, size: int) -> np.ndarray:
    """How many backchannels touch each window of 0.2 s [size]."""
    counts = np.zeros(size)
    for span in spans:
        first = int(span.start / rate / _WINDOW_S)
        counts[first : int((span.end - 1) / rate / _WINDOW_S) + 1] += 1
    return counts


def _stretched(values: Sequence[float], size: int) -> np.ndarray:
    """The same distribution in another number of windows."""
    at = np.linspace(0, 1, size)
    return np.interp(at, np.linspace(0, 1, len(values)), values)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """The Jensen-Shannon distance (natural logarithm) of two distributions [N], each brought to a sum of 1."""
    p, q = ((each + _EPSILON) / np.sum(each + _EPSILON) for each in (first, second))
    middle = (p + q) / 2
    divergence = np.sum(p * np.log(p / middle)) / 2 + np.sum(q * np.log(q / middle)) / 2
    return float(np.sqrt(max(0.0, divergence)))


def report(scores: Sequence[Score]) -> dict[str, Any]:
    """Each task that has samples, ready for JSON."""
    result: dict[str, Any] = {}
    for task in TASKS:
        of = [each for each in scores if each.task == task]
        if not of:
            continue
        values: dict[str, Any] = {"takeover_rate": proportion(sum(each.takeover for each in of), len(of))}
        if task in ("turn_taking", "interruption"):
            values["latency_s"] = summarise([each.latency_s for each in of if each.latency_s is not None])
            values["early"] = sum(each.early for each in of)
        if task == "backchannel":
            values["backchannels"] = sum(each.backchannels for each in of)
            values["per_s"] = _mean([each.per_s for each in of])
            values["divergence"] = _mean([each.divergence for each in of])
        result[task] = values
    return result


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
