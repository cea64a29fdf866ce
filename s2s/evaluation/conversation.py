"""Conversation: how long an answer takes, whether the agent takes the turn, how fast it stops when interrupted."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from s2s.data.schema import Word
from s2s.evaluation.audibility import Span, audible_spans, merge_spans

TURN_BRIDGE_MS = 1000  # a caller who pauses for less than this inside a sentence has not given the turn away
DUCK_MS = 700  # an agent that is back within this time has ducked, not yielded
YIELD_MS = 2000


def caller_turns(caller: np.ndarray, sample_rate: int, bridge_ms: int = TURN_BRIDGE_MS) -> list[Span]:
    """Return the turns of the caller's track [N] by energy; an annotation of the file is better where there is one."""
    return audible_spans(caller, sample_rate, bridge_ms=bridge_ms)


def voice_to_voice(turn: Span, agent: Sequence[Span], until: int | None = None) -> int | None:
    """Return the samples from the caller's last audible sample to the agent's first audible one after it.

    `agent` are the agent's audible spans, `until` the start of the caller's next turn. An agent that begins during the
    turn and is still audible at its end has answered early: the value is negative. One that was already speaking when
    the turn began is being interrupted, and only what it begins afterwards counts. None: it did not answer.
    """
    for span in agent:
        if until is not None and span.start >= until:
            return None
        early = span.start > turn.start and span.end > turn.end
        if early or span.start >= turn.end:
            return span.start - turn.end
    return None


def response_gaps(turns: Sequence[Span], agent: Sequence[Span]) -> list[int | None]:
    """Return voice_to_voice of each of the caller's turns, each answer looked for before the next turn begins."""
    limits = [turn.start for turn in turns[1:]]
    return [voice_to_voice(turn, agent, until) for turn, until in zip_longest(turns, limits)]


def v2v_ms(caller: np.ndarray, agent: np.ndarray, sample_rate: int) -> float | None:
    """Return voice_to_voice of the caller's last turn in ms, both tracks [N] on one clock; None without an answer."""
    turns = caller_turns(caller, sample_rate)
    if not turns:
        return None
    gap = voice_to_voice(turns[-1], audible_spans(agent, sample_rate))
    return None if gap is None else gap * 1000 / sample_rate


def takeover(words: Sequence[Word]) -> int:
    """Return the takeover of one sample as Full-Duplex-Bench v1 defines it, from the words of the agent's track.

    0 when there are no words, or when at most 3 words span less than 1 s (a backchannel); else 1.
    """
    if not words:
        return 0
    duration = max(word.end_s for word in words) - min(word.start_s for word in words)
    return 0 if duration < 1.0 and len(words) <= 3 else 1


@dataclass(frozen=True)
class Stop:
    """What the agent did about an interruption: samples until it was silent, and whether it gave way within 2 s."""

    latency: int
    yielded: bool


def stop_latency(agent: np.ndarray, sample_rate: int, interruption: int, level_db: float | None = None) -> Stop | None:
    """Return the time from the first sample of the caller's speech over the agent to the last audible agent sample.

    Both on one clock, the agent's track [N] as it was played. An agent that is audible again within 0.7 s has only
    ducked, so its speech goes on. None: it was not speaking when the caller began.
    """
    spans = audible_spans(agent, sample_rate, level_db=level_db, bridge_ms=0, min_ms=0)
    for span in merge_spans(spans, sample_rate * DUCK_MS // 1000):
        if span.start <= interruption < span.end:
            latency = span.end - interruption
            return Stop(latency, latency * 1000 <= YIELD_MS * sample_rate)
    return None
