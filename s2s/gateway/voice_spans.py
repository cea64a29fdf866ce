"""Voice spans: where a whole recording is speech to Silero's network, a second opinion beside a detector of energy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from s2s.audio.pcm import float_to_int16
from s2s.gateway.voice import HOP_MS, VoiceActivity

_THRESHOLD = 0.5
_BRIDGE_MS = 200


def voice_spans(wav: NDArray[np.floating], sample_rate: int) -> list[tuple[int, int]]:
    """Stretches of speech in wav [N], (start, end) in samples on a grid of 32 ms, pauses below 200 ms bridged."""
    spans: list[tuple[int, int]] = []
    detector = VoiceActivity(sample_rate)
    for hop in detector.push(float_to_int16(wav)):
        if hop.probability < _THRESHOLD:
            continue
        start_ms = hop.end_ms - HOP_MS
        if spans and start_ms - spans[-1][1] < _BRIDGE_MS:
            spans[-1] = (spans[-1][0], hop.end_ms)
        else:
            spans.append((start_ms, hop.end_ms))
    return [(start * sample_rate // 1000, end * sample_rate // 1000) for start, end in spans]
