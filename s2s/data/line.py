"""What lies between a caller's mouth and our ear: noise around the caller, and a telephone's band and coding."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2s.audio.pcm import float_to_int16, int16_to_float, mulaw_decode, mulaw_encode
from s2s.audio.resample import resample
from s2s.data.clips import expand, load_clips


@dataclass(frozen=True)
class LineConfig:
    """`noise`: tables of noises (none: no noise). Probabilities are per call, `snr_db` is against the speech's level."""

    noise: tuple[str, ...] = ()
    noisy: float = 0.35
    snr_db: tuple[float, float] = (10.0, 30.0)
    telephone: float = 0.25
    telephone_band_hz: tuple[float, float] = (300.0, 3400.0)


class Line:
    """Applies noise and telephone to a caller's track; all noises are loaded once."""

    def __init__(self, config: LineConfig, sample_rate: int, cache: Path) -> None:
        self.config, self.sample_rate = config, sample_rate
        self.noises = [clip.pcm for clip in load_clips(expand(config.noise), cache, sample_rate)]

    def apply(self, wav: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
        """wav [N] as it arrives, and what was done to it."""
        done: dict[str, Any] = {}
        # All draws come first: what one effect does never changes the dice of the next call's parts.
        noisy, telephone = rng.random() < self.config.noisy, rng.random() < self.config.telephone
        snr_db = round(float(rng.uniform(*self.config.snr_db)), 1)
        which, offset = rng.random(), rng.random()
        if noisy and self.noises:
            wav = add_noise(wav, self.noises[int(which * len(self.noises))], snr_db, offset)
            done["snr_db"] = snr_db
        if telephone:
            wav = through_telephone(wav, self.sample_rate, self.config.telephone_band_hz)
            done["telephone"] = True
        return np.clip(wav, -1.0, 1.0), done


def add_noise(wav: np.ndarray, noise: np.ndarray, snr_db: float, offset: float) -> np.ndarray:
    """wav [N] plus `noise` int16 [M], repeated from the share `offset` of it on, `snr_db` below the speech's level."""
    speech = wav[np.abs(wav) > 1e-3]
    if not len(speech):
        return wav
    start = int(offset * len(noise))
    looped = np.resize(np.roll(int16_to_float(np.asarray(noise)), -start), len(wav))
    level = np.sqrt(np.mean(looped * looped)) + 1e-6
    gain = np.sqrt(np.mean(speech * speech)) * 10 ** (-snr_db / 20) / level
    return wav + looped * np.float32(min(gain, 20.0))


def through_telephone(wav: np.ndarray, sample_rate: int, band_hz: tuple[float, float]) -> np.ndarray:
    """wav [N] at 8 kHz within `band_hz`, through G.711 mu-law, and back at its rate with its length."""
    narrow = resample(wav, sample_rate, 8000)
    spectrum = np.fft.rfft(narrow)
    hertz = np.fft.rfftfreq(len(narrow), 1 / 8000)
    low, high = band_hz
    slope = 1 / (1 + (low / np.maximum(hertz, 1.0)) ** 6) / (1 + (hertz / high) ** 24)
    narrow = np.fft.irfft(spectrum * slope, len(narrow)).astype(np.float32)
    coded = mulaw_decode(mulaw_encode(float_to_int16(np.clip(narrow, -1.0, 1.0))))
    return resample(int16_to_float(coded), 8000, sample_rate)[: len(wav)]
