"""Sample formats of the wire: 16-bit linear PCM and the two laws of ITU-T G.711, as table look-ups.

G.711 leaves open what happens to a sample that lies exactly on a decision value; here, as in libsndfile, it belongs to
the larger magnitude, the same on both sides of zero.
"""

import numpy as np
from numpy.typing import NDArray


def float_to_int16(wav: NDArray[np.floating]) -> NDArray[np.int16]:
    """Return float audio (full scale 1.0) as int16, rounded and clipped, any shape; NaN becomes silence."""
    scaled = np.rint(np.asarray(wav, dtype=np.float32) * np.float32(32768.0))
    return np.nan_to_num(np.clip(scaled, -32768.0, 32767.0), nan=0.0).astype(np.int16)


def int16_to_float(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return int16 audio as float32 in [-1, 1), any shape; the inverse of `float_to_int16`."""
    _check(pcm, np.int16)
    return np.asarray(pcm, dtype=np.float32) / np.float32(32768.0)


def mulaw_encode(pcm: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return int16 samples as G.711 mu-law codes, any shape."""
    _check(pcm, np.int16)
    return _MULAW_CODES[pcm.view(np.uint16)]


def mulaw_decode(codes: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return G.711 mu-law codes as int16 samples, any shape."""
    _check(codes, np.uint8)
    return _MULAW_VALUES[codes]


def alaw_encode(pcm: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return int16 samples as G.711 A-law codes, any shape."""
    _check(pcm, np.int16)
    return _ALAW_CODES[pcm.view(np.uint16)]


def alaw_decode(codes: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return G.711 A-law codes as int16 samples, any shape."""
    _check(codes, np.uint8)
    return _ALAW_VALUES[codes]


def _check(samples: NDArray, dtype: type) -> None:
    if not isinstance(samples, np.ndarray) or samples.dtype != dtype:
        found = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
        raise ValueError(f"expected an array of {np.dtype(dtype)}, got {found}")


def _all_int16() -> NDArray[np.int64]:
    """Return every int16 value, at the index its bits have as uint16."""
    return np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int64)


def _mulaw_values() -> NDArray[np.int16]:
    bits = ~np.arange(256) & 0xFF  # all bits of a mu-law code travel inverted
    exponent, mantissa = (bits >> 4) & 7, bits & 15
    magnitude = ((((mantissa << 1) + 33) << exponent) - 33) * 4  # 14-bit scale of the standard -> 16 bits
    return np.where(bits & 0x80, -magnitude, magnitude).astype(np.int16)


def _mulaw_codes() -> NDArray[np.uint8]:
    pcm = _all_int16()
    biased = np.minimum(np.abs(pcm) >> 2, 8158) + 33  # 33 ... 8191
    exponent = _exponent(biased, first=64)
    mantissa = (biased >> (exponent + 1)) & 15
    bits = np.where(pcm < 0, 0x80, 0) | (exponent << 4) | mantissa
    return (~bits & 0xFF).astype(np.uint8)


def _alaw_values() -> NDArray[np.int16]:
    bits = np.arange(256) ^ 0x55  # even bits of an A-law code travel inverted
    exponent, mantissa = (bits >> 4) & 7, bits & 15
    step = (mantissa << 4) + 8
    magnitude = np.where(exponent == 0, step, (step + 256) << np.maximum(exponent - 1, 0))
    return np.where(bits & 0x80, magnitude, -magnitude).astype(np.int16)


def _alaw_codes() -> NDArray[np.uint8]:
    pcm = _all_int16()
    level = np.minimum(np.abs(pcm) >> 4, 2047)  # 0 ... 2047
    exponent = _exponent(level, first=16)
    mantissa = (level >> np.maximum(exponent - 1, 0)) & 15
    bits = np.where(pcm < 0, 0, 0x80) | (exponent << 4) | mantissa
    return (bits ^ 0x55).astype(np.uint8)


def _exponent(level: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Return the segment 0 ... 7 of each level: segment 1 starts at `first`, each next one at twice the last."""
    return np.searchsorted(first << np.arange(7), level, side="right")


_MULAW_VALUES = _mulaw_values()
_MULAW_CODES = _mulaw_codes()
_ALAW_VALUES = _alaw_values()
_ALAW_CODES = _alaw_codes()
