"""Loudness of int16 samples, and gain that moves without a click."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def loudest_dbfs(pcm: NDArray[np.int16], block: int) -> float:
    """The root mean square of the loudest whole block of `block` samples [N], in dB of full scale; silence is -inf."""
    if not len(pcm):
        return -np.inf
    blocks = pcm[: len(pcm) // block * block].reshape(-1, block) if len(pcm) >= block else pcm[None]
    wav = blocks.astype(np.float32)
    power = np.einsum("bn,bn->b", wav, wav).max() / (wav.shape[1] * 32768.0**2)
    return float(10 * np.log10(power)) if power > 0 else -np.inf


class Fader:
    """Scales a live signal. A new gain is reached on a straight line over `ramp` samples, from where it stands."""

    def __init__(self, ramp: int):
        self._ramp = max(1, ramp)
        self._gain = self._target = 1.0

    @property
    def target(self) -> float:
        return self._target

    def fade_to(self, gain: float) -> None:
        self._target = gain

    def jump_to(self, gain: float) -> None:
        self._gain = self._target = gain

    def process(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """The next samples [N], scaled."""
        if self._gain == self._target:
            return pcm if self._gain == 1.0 else np.rint(pcm * self._gain).astype(np.int16)
        start, step = self._gain, 1 / self._ramp
        steps = step * np.arange(1, len(pcm) + 1)
        if self._target < start:
            gain = np.maximum(start - steps, self._target)
        else:
            gain = np.minimum(start + steps, self._target)
        if len(pcm):
            self._gain = float(gain[-1])
        return np.rint(pcm * gain).astype(np.int16)
