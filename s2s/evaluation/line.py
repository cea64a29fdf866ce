"""Line: what happens to a caller's voice on its way to the agent during a call: telephone, noise, lost packets.

Everything is drawn before the call begins, so that the same seed gives the same line whatever is said on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2s.data.augment import scaled_noise, telephone

BURST_S = 0.1
# After so long the noise, or what is lost, begins anew.
_PERIOD_S, _LONGEST_S = 10.0, 600.0


@dataclass(frozen=True)
class LineConfig:
    """telephone: 300 to 3400 Hz, 8 kHz, mu-law; noise_snr_db: noise so far below the speech; loss_rate: lost audio.

    What is lost is silence in bursts of 100 ms.
    """

    telephone: bool = False
    noise_snr_db: float | None = None
    loss_rate: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.loss_rate < 1:
            raise ValueError(f"loss_rate is {self.loss_rate}, allowed is 0 to below 1")


class Line:
    """One caller's line."""

    def __init__(
        self,
        config: LineConfig,
        sample_rate: int,
        speech_level: float,
        rng: np.random.Generator,
        noises: Sequence[np.ndarray] = (),
    ):
        """Args: speech_level: root mean square of the speech; noises: recordings [N], without them noise is brown."""
        self._config, self._rate = config, sample_rate
        size = round(_PERIOD_S * sample_rate)
        self._noise: np.ndarray | None = None
        if config.noise_snr_db is not None:
            noise = scaled_noise(_noise(size, noises, rng), speech_level, config.noise_snr_db)
            self._noise = telephone(noise, sample_rate) if config.telephone else noise
        self._burst = round(BURST_S * sample_rate)
        self._lost = rng.random(round(_LONGEST_S / BURST_S)) < config.loss_rate

    def voice(self, wav: np.ndarray) -> np.ndarray:
        """What is said, wav [N], as the band of the line lets it through."""
        return telephone(wav, self._rate) if self._config.telephone else wav

    def carry(self, start: int, packet: np.ndarray) -> np.ndarray:
        """What arrives of the packet [N] that begins `start` samples after the call began."""
        at = start + np.arange(len(packet))
        if self._noise is not None:
            packet = packet + self._noise[at % len(self._noise)]
        if self._config.loss_rate:
            packet = np.where(self._lost[at // self._burst % len(self._lost)], 0.0, packet)
        return np.clip(packet, -1.0, 1.0).astype(np.float32)


def _noise(size: int, noises: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    if noises:
        noise = np.asarray(noises[int(rng.integers(len(noises)))], dtype=np.float32)
        return np.resize(np.roll(noise, -int(rng.integers(len(noise)))), size)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20.0)
    return np.fft.irfft(spectrum, size).astype(np.float32)
