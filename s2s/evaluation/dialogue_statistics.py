"""Dialogue statistics: how much two people speak, pause, take turns and overlap, in seconds per minute.

Nguyen et al., "Generative Spoken Dialogue Language Modeling" (arXiv:2203.16502): an inter-pausal unit is speech of one
side without a silence above 200 ms; a silence between two units of one side is a pause, between two sides a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from s2s.evaluation.audibility import Span, merge_spans

BRIDGE_S = 0.2
NAMES = ("inter_pausal_units", "pauses", "gaps", "overlap")
PEOPLE = dict(zip(NAMES, (51.1, 6.4, 4.2, 3.3), strict=True))


@dataclass(frozen=True)
class DialogueStatistics:
    """Seconds of each, and how long the conversation lasts from its first to its last sound."""

    inter_pausal_units: float = 0.0
    pauses: float = 0.0
    gaps: float = 0.0
    overlap: float = 0.0
    duration_s: float = 0.0


def dialogue_statistics(caller: Sequence[Span], agent: Sequence[Span], sample_rate: int) -> DialogueStatistics:
    """Count a conversation, both sides in audible spans."""
    bridge = round(BRIDGE_S * sample_rate)
    units = sorted(
        ((span, side) for side, spans in enumerate((caller, agent)) for span in merge_spans(spans, bridge)),
        key=lambda unit: unit[0].start,
    )
    if not units:
        return DialogueStatistics()
    speech = pauses = gaps = overlap = 0
    end, speaker = units[0][0].start, units[0][1]
    for span, side in units:
        speech += span.end - span.start
        silence = span.start - end
        if silence > 0 and side == speaker:
            pauses += silence
        elif silence > 0:
            gaps += silence
        else:
            overlap += max(0, min(end, span.end) - span.start)
        if span.end > end:
            end, speaker = span.end, side
    duration = end - units[0][0].start
    return DialogueStatistics(*(value / sample_rate for value in (speech, pauses, gaps, overlap, duration)))


def per_minute(found: Iterable[DialogueStatistics]) -> dict[str, Any]:
    """Seconds per minute over all conversations, beside those of people."""
    rows = [asdict(each) for each in found]
    total = sum(row["duration_s"] for row in rows)
    shares = {name: 60 * sum(row[name] for row in rows) / total if total else None for name in NAMES}
    return {"n": len(rows), "minutes": total / 60, "per_minute_s": shares, "people_per_minute_s": dict(PEOPLE)}
