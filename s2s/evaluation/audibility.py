"""Audibility: where on a track speech can be heard, from its energy in steps of 10 ms.

Audible is above the track's own speech level minus 20 dB. The speech level is the mean power of the frames that speak,
found as in ITU-T P.56: frames count as speech when they are within 15.9 dB of the level which they themselves make.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HOP_MS = 10
MARGIN_DB = 20.0
FLOOR_DB = -55.0  # below this a whole track is silence, however it compares with itself
_P56_MARGIN_DB = 15.9
_LOUD_FRAMES = 20  # 200 ms: a click shorter than this does not set the level
_SILENCE_DB = -200.0


@dataclass(frozen=True)
class Span:
    """A stretch of a track in samples, `end` excluded."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"a span needs 0 <= start <= end, not {self.start} ... {self.end}")

    def shifted(self, samples: int) -> "Span":
        """Return the same stretch `samples` later."""
        return Span(self.start + samples, self.end + samples)


def hop_samples(sample_rate: int) -> int:
    """Return the samples in one step of 10 ms; raises ValueError where that is not a whole number."""
    hop, rest = divmod(sample_rate * HOP_MS, 1000)
    if rest or hop <= 0:
        raise ValueError(f"sample rate must have a whole number of samples in {HOP_MS} ms, not {sample_rate} Hz")
    return hop


def frame_levels_db(track: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the power of each 10 ms frame of track [N] in dB of full scale, [ceil(N / hop)]; silence ends the last."""
    if track.ndim != 1:
        raise ValueError(f"a track is one channel [N], not an array of shape {track.shape}")
    hop = hop_samples(sample_rate)
    frames = np.zeros((-(-len(track) // hop), hop), dtype=np.float64)
    frames.reshape(-1)[: len(track)] = track
    power = np.mean(np.square(frames), axis=1)
    return 10 * np.log10(np.maximum(power, 10 ** (_SILENCE_DB / 10)))


def speech_level_db(track: np.ndarray, sample_rate: int) -> float | None:
    """Return the speech level of track [N] in dB of full scale, or None when nothing on it rises above -55 dB."""
    levels = frame_levels_db(track, sample_rate)
    loud = np.sort(levels[levels > FLOOR_DB])[::-1]
    if len(loud) == 0:
        return None
    level = float(loud[min(_LOUD_FRAMES, len(loud)) - 1])
    for _ in range(100):  # the threshold only falls or only rises, over finitely many frames; it settles within a few
        speaking = loud[loud > level - _P56_MARGIN_DB]
        settled = float(10 * np.log10(np.mean(10 ** (speaking / 10))))
        if abs(settled - level) < 0.01:
            break
        level = settled
    return level


def audible_spans(
    track: np.ndarray, sample_rate: int, level_db: float | None = None, bridge_ms: int = 200, min_ms: int = 30
) -> list[Span]:
    """Return the audible stretches of track [N] in order.

    `level_db` is the speaker's level where it is known from elsewhere (a cut-off word is too short to tell); silences
    shorter than `bridge_ms` stay inside a stretch; stretches shorter than `min_ms` (clicks) are left out. Starts and
    ends lie on the 10 ms grid, an end never beyond the track.
    """
    if level_db is None:
        level_db = speech_level_db(track, sample_rate)
    if level_db is None:
        return []
    hop = hop_samples(sample_rate)
    audible = frame_levels_db(track, sample_rate) > max(level_db - MARGIN_DB, FLOOR_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], audible, [False]]).astype(np.int8)))
    spans = [Span(int(start) * hop, min(int(end) * hop, len(track))) for start, end in edges.reshape(-1, 2)]
    merged = merge_spans(spans, sample_rate * bridge_ms // 1000)
    return [span for span in merged if span.end - span.start >= sample_rate * min_ms // 1000]


def merge_spans(spans: Sequence[Span], bridge: int) -> list[Span]:
    """Join neighbouring spans that are less than `bridge` samples apart; `spans` must be in order."""
    merged: list[Span] = []
    for span in spans:
        if merged and span.start - merged[-1].end < bridge:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged
