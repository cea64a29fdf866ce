"""Wrong starts: an agent that takes a thinking pause for an end, has to break off and to begin anew, or begins late.

Composed calls know no such thing, as their agent is always right. A model is not, and what it has to do then it can
only learn from calls in which it was wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LATE = 0.35
"""Share of wrong starts that are late ones."""
LATE_FRAMES = (10, 36)
"""How late: until the longest thinking pause is over, and no doubt is left."""
LEAST_TURN_S, EDGE_S = 1.2, 0.5
"""A shorter turn has no room for a false start amid speech, nor have its first and last half second."""
LEAST_PAUSE_S = 0.3
"""A shorter pause is over before anybody would begin."""
BEGIN = (4, 9)
"""Frames into a pause after which the agent begins, as long as after an end."""
AMID = 0.25
"""Share of false starts amid speech, to be broken off at once. They are rare in calls, and with many of them an agent
learns to break off whenever it hears somebody, nods included."""
BREAK_OFF = (3, 9)
"""Frames for which it talks on while the caller speaks again."""
EARLY = 6
"""Frames before its sound in which a reply's first token may be."""
KNOWN = {"start_s", "end_s", "pauses_s", "barge_in", "reply_start_s", "reply_end_s"}
"""What has to be known of a turn, as `data.calls` tells it."""
ANEW = 18
"""Frames from its last token to the reply that is due, at least: else that would be the same reply going on."""


@dataclass(frozen=True)
class WrongStart:
    """text [T] of the agent with it, which is wrong from frame `begin` on.

    It has to break off at `resumed` and does so at `end`; where it begins late, it has to begin there.
    """

    text: np.ndarray
    begin: int
    resumed: int
    end: int


@dataclass(frozen=True)
class Call:
    """text [T] of its agent and what its meta says of it, in which other people's dialogues may have anything."""

    text: np.ndarray
    meta: Mapping[str, Any]
    frame_rate: float
    pad_id: int

    def replies(self) -> list[tuple[Mapping[str, Any], int]]:
        """Turns, and the frame of the first token of the reply to each."""
        said, found = np.flatnonzero(self.text != self.pad_id), list[tuple[Mapping[str, Any], int]]()
        for turn in self.meta.get("turns", ()):
            if not isinstance(turn, dict) or not turn.keys() >= KNOWN:
                continue
            start, end = (turn[name] * self.frame_rate for name in ("reply_start_s", "reply_end_s"))
            own = said[(said >= start - EARLY) & (said < end)]
            if own.size:
                found.append((turn, int(own[0])))
        return found


def wrong_start(call: Call, other: Call, rng: np.random.Generator) -> WrongStart | None:
    """Draw a late or a false start for a call; None where it has no room for it."""
    return late_start(call, rng) if rng.random() < LATE else false_start(call, other, rng)


def late_start(call: Call, rng: np.random.Generator) -> WrongStart | None:
    """The agent lets the time to begin go by: in doubt it waits, and once there is no more doubt it has to begin."""
    places = call.replies()
    if not places:
        return None
    turn, due = places[int(rng.integers(len(places)))]
    late, over = int(rng.integers(*LATE_FRAMES)), math.ceil(turn["reply_end_s"] * call.frame_rate)
    begins = [other["start_s"] * call.frame_rate for other, _ in places if other["start_s"] > turn["start_s"]]
    said = call.text[due:over]
    if over + late + EARLY > min([len(call.text), *begins]) or (call.text[over : over + late] != call.pad_id).any():
        return None
    text = call.text.copy()
    text[due : over + late] = call.pad_id
    text[due + late : over + late] = said
    return WrongStart(text, due, due + late, due + late)


def false_start(call: Call, other: Call, rng: np.random.Generator) -> WrongStart | None:
    """Draw one for a call; None where it has no room for it.

    The agent begins with a reply of the `other` call: what it is about to say may be wrong, and had it always begun
    with what turns out to be right, it would learn to say so again.
    """
    places = [(t, due) for t, due in call.replies() if not t["barge_in"] and t["end_s"] - t["start_s"] >= LEAST_TURN_S]
    pauses = [(*at, due) for t, due in places for at in t["pauses_s"] if at[1] - at[0] >= LEAST_PAUSE_S]
    others = other.replies()
    if not places or not others:
        return None
    if rng.random() >= AMID:
        if not pauses:
            return None
        start_s, end_s, due = pauses[int(rng.integers(len(pauses)))]
        begin = round(start_s * call.frame_rate) + int(rng.integers(*BEGIN))
        resumed = math.ceil(end_s * call.frame_rate)
    else:
        turn, due = places[int(rng.integers(len(places)))]
        begin = round(float(rng.uniform(turn["start_s"] + EDGE_S, turn["end_s"] - EDGE_S)) * call.frame_rate)
        resumed = begin + 1
    end = resumed + int(rng.integers(*BREAK_OFF))
    first = others[int(rng.integers(len(others)))][1]
    tokens = other.text[first : first + end - begin]
    free = (call.text[max(0, begin - ANEW) : due] == call.pad_id).all()
    if resumed <= begin or end + ANEW > due or len(tokens) < end - begin or not free:
        return None
    text = call.text.copy()
    text[begin:end] = tokens
    return WrongStart(text, begin, resumed, end)
