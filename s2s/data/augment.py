"""What happens to a caller's voice on its way: room, echo of the agent, noise, telephone line, lost packets.

Everything is a pure function of (audio, seed) and keeps length and timing, so word times stay true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2s.audio.pcm import float_to_int16, int16_to_float, mulaw_decode, mulaw_encode
from s2s.audio.resample import resample

TELEPHONE_RATE = 8_000
BAND_HZ = (300.0, 3_400.0)
PACKET_S = 0.02
SILENCE_RMS = 1e-5
SILENT_CALLER_RMS = 0.03
EFFECTS = ("room", "echo", "noise", "gain", "telephone", "loss")

Range = tuple[float, float]


@dataclass(frozen=True)
class AugmentConfig:
    """How often (`..._chance` of a dialogue) and how strongly; every range is drawn from evenly."""

    room_chance: float = 0.2
    room_decay_s: Range = (0.1, 0.5)
    room_direct_db: Range = (3.0, 15.0)
    echo_chance: float = 0.2
    echo_delay_ms: Range = (20.0, 250.0)
    echo_gain_db: Range = (-45.0, -25.0)
    noise_chance: float = 0.4
    noise_snr_db: Range = (5.0, 25.0)
    gain_chance: float = 0.7
    gain_db: Range = (-12.0, 6.0)
    telephone_chance: float = 0.4
    loss_chance: float = 0.1
    loss_rate: Range = (0.01, 0.1)
    loss_burst_ms: Range = (20.0, 120.0)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_chance"):
                if not 0 <= value <= 1:
                    raise ValueError(f"{name} {value} must be 0 to 1")
            elif not value[0] <= value[1]:
                raise ValueError(f"{name} {value} must be (lowest, highest)")


def augment_caller(
    user: np.ndarray,
    agent: np.ndarray,
    sample_rate: int,
    config: AugmentConfig,
    seed: int | Sequence[int],
    noises: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """The caller's track [N] as it might arrive, float32 [N] within [-1, 1].

    `agent` [N] is what the caller's loudspeaker plays. `noises` are recordings at the same rate, looped or cut to
    length; without them noise is coloured randomly. Every effect draws from its own generator, so changing the chance
    of one leaves the others as they were.
    """
    root = (seed,) if isinstance(seed, int) else tuple(seed)
    rngs = {name: np.random.default_rng((*root, number)) for number, name in enumerate(EFFECTS)}
    happens = {name: rngs[name].random() < getattr(config, f"{name}_chance") for name in EFFECTS}
    wav = np.asarray(user, dtype=np.float32)
    level = speech_rms(wav)
    if happens["room"]:
        rng = rngs["room"]
        wav = room(wav, sample_rate, rng.uniform(*config.room_decay_s), rng.uniform(*config.room_direct_db), rng)
    if happens["echo"]:
        rng = rngs["echo"]
        delay = round(rng.uniform(*config.echo_delay_ms) * sample_rate / 1_000)
        wav = wav + echo(agent, delay, rng.uniform(*config.echo_gain_db))
    if happens["noise"]:
        rng = rngs["noise"]
        snr_db = rng.uniform(*config.noise_snr_db)
        wav = wav + scaled_noise(_noise(wav.size, noises, rng), level or SILENT_CALLER_RMS, snr_db)
    if happens["gain"]:
        wav = wav * 10 ** (rngs["gain"].uniform(*config.gain_db) / 20)
    if happens["telephone"]:
        wav = telephone(wav, sample_rate)
    if happens["loss"]:
        rng = rngs["loss"]
        wav = lose_packets(wav, sample_rate, rng.uniform(*config.loss_rate), rng.uniform(*config.loss_burst_ms), rng)
    return np.clip(wav, -1.0, 1.0).astype(np.float32)


def speech_rms(wav: np.ndarray) -> float:
    """Root mean square of the loud part of wav [N] (blocks within 30 dB of the loudest); 0 for silence."""
    size = max(1, min(480, wav.size))
    blocks = np.square(wav[: wav.size // size * size].reshape(-1, size), dtype=np.float64).mean(axis=1)
    loud = blocks[blocks > max(blocks.max(initial=0.0) * 1e-3, SILENCE_RMS**2)]
    return float(np.sqrt(loud.mean())) if loud.size else 0.0


def room(wav: np.ndarray, sample_rate: int, decay_s: float, direct_db: float, rng: np.random.Generator) -> np.ndarray:
    """Convolves wav [N] with a room: the direct sound first, then noise that has lost 60 dB after `decay_s`.

    `direct_db` is the energy of the direct sound over that of the tail. The direct sound is not delayed.
    """
    size = max(2, round(decay_s * sample_rate))
    tail = rng.standard_normal(size) * 10 ** (-3 * np.arange(size) / size)
    tail[: max(1, sample_rate // 400)] = 0.0  # 2.5 ms before the first reflection
    energy = float(np.square(tail).sum())
    tail *= 10 ** (-direct_db / 20) / np.sqrt(energy) if energy > 0 else 0.0
    tail[0] = 1.0
    return _convolve(wav, tail)[: wav.size]


def echo(agent: np.ndarray, delay: int, gain_db: float) -> np.ndarray:
    """The agent's track [N], `delay` samples later and `gain_db` louder."""
    out = np.zeros_like(agent, dtype=np.float32)
    out[delay:] = agent[: max(0, agent.size - delay)] * 10 ** (gain_db / 20)
    return out


def scaled_noise(noise: np.ndarray, speech_level: float, snr_db: float) -> np.ndarray:
    """Noise [N] so loud that speech of root mean square `speech_level` is `snr_db` above it."""
    level = float(np.sqrt(np.mean(np.square(noise, dtype=np.float64)))) if noise.size else 0.0
    if level < SILENCE_RMS:
        return np.zeros_like(noise, dtype=np.float32)
    return (noise * (speech_level / level * 10 ** (-snr_db / 20))).astype(np.float32)


def telephone(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """wav [N] through a telephone line: 300 to 3400 Hz, 8 kHz, G.711 mu-law, and back to `sample_rate`."""
    narrow = resample(wav.astype(np.float32), sample_rate, TELEPHONE_RATE)
    taps = _band_pass()
    narrow = _convolve(narrow, taps)[taps.size // 2 : taps.size // 2 + narrow.size]
    narrow = int16_to_float(mulaw_decode(mulaw_encode(float_to_int16(narrow))))
    return _fit(resample(narrow, TELEPHONE_RATE, sample_rate), wav.size)


def lose_packets(
    wav: np.ndarray, sample_rate: int, rate: float, burst_ms: float, rng: np.random.Generator
) -> np.ndarray:
    """Loses a share `rate` of the 20 ms packets of wav [N], in bursts of `burst_ms` on average.

    A lost packet is silence, or (half of the calls) the packet before it, fading, as receivers conceal it.
    """
    size = round(PACKET_S * sample_rate)
    burst = max(1.0, burst_ms / (1_000 * PACKET_S))
    end_chance, start_chance = 1 / burst, rate / max(1e-9, (1 - rate) * burst)
    conceal = rng.random() < 0.5
    out = wav.astype(np.float32, copy=True)
    lost = False
    for begin, draw in zip(range(0, wav.size, size), rng.random(-(-wav.size // size)), strict=True):
        lost = draw >= end_chance if lost else draw < start_chance
        if lost:
            packet = out[begin : begin + size]
            packet[:] = 0.5 * out[begin - size : begin][: packet.size] if conceal and begin else 0.0
    return out


def _noise(size: int, noises: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    if noises:
        noise = np.asarray(noises[int(rng.integers(len(noises)))], dtype=np.float32)
        if noise.size:
            shift = int(rng.integers(noise.size))
            return np.resize(np.roll(noise, -shift), size)
    length = _fast_length(size)
    shape = np.fft.rfft(rng.standard_normal(length))
    shape *= np.arange(1, shape.size + 1) ** (-rng.uniform(0.0, 1.0))  # between white and brown
    return np.fft.irfft(shape, length)[:size].astype(np.float32)


def _band_pass(half: int = 100) -> np.ndarray:
    """A windowed-sinc band pass at 8 kHz, 2 * half + 1 taps."""
    time = np.arange(-half, half + 1)
    low, high = (2 * hz / TELEPHONE_RATE for hz in BAND_HZ)
    taps: np.ndarray = (high * np.sinc(high * time) - low * np.sinc(low * time)) * np.hamming(2 * half + 1)
    return taps


def _convolve(wav: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Full convolution of two signals by overlapping blocks, float32 [N + taps - 1]."""
    size = _fast_length(4 * taps.size)
    block = size - taps.size + 1
    response = np.fft.rfft(taps, size)
    out = np.zeros(wav.size + size, dtype=np.float64)
    for begin in range(0, wav.size, block):
        out[begin : begin + size] += np.fft.irfft(np.fft.rfft(wav[begin : begin + block], size) * response, size)
    return out[: wav.size + taps.size - 1].astype(np.float32)


def _fast_length(size: int) -> int:
    return 1 << max(1, size - 1).bit_length()


def _fit(wav: np.ndarray, size: int) -> np.ndarray:
    """wav cut or filled with silence to [size]."""
    return wav[:size] if wav.size >= size else np.pad(wav, (0, size - wav.size))
