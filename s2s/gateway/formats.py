"""Audio formats of the wire: a client's bytes <-> the engine's int16 samples, as live streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from s2s.audio.pcm import (
    alaw_decode,
    alaw_encode,
    float_to_int16,
    int16_to_float,
    mulaw_decode,
    mulaw_encode,
)
from s2s.audio.resample import StreamingResampler

Encoding = Literal["pcm16", "mulaw", "alaw"]


@dataclass(frozen=True)
class WireFormat:
    """One channel of 16-bit little-endian samples or G.711 codes, at `rate` Hz."""

    encoding: Encoding = "pcm16"
    rate: int = 24000

    def samples(self, data: bytes) -> NDArray[np.int16]:
        """Raises ValueError where the bytes are no whole number of samples."""
        if self.encoding == "pcm16":
            if len(data) % 2:
                raise ValueError(f"{len(data)} bytes are no whole number of 16-bit samples")
            return np.frombuffer(data, dtype="<i2").astype(np.int16)
        decode = mulaw_decode if self.encoding == "mulaw" else alaw_decode
        return decode(np.frombuffer(data, dtype=np.uint8))

    def data(self, pcm: NDArray[np.int16]) -> bytes:
        if self.encoding == "pcm16":
            return pcm.astype("<i2").tobytes()
        return (mulaw_encode if self.encoding == "mulaw" else alaw_encode)(pcm).tobytes()


class Decoder:
    """Bytes of a format -> samples of the engine."""

    def __init__(self, wire: WireFormat, sample_rate: int):
        self.wire = wire
        self._resampler = None if wire.rate == sample_rate else StreamingResampler(wire.rate, sample_rate)

    def decode(self, data: bytes) -> NDArray[np.int16]:
        """The samples [N] now known; ValueError where the bytes are no whole number of samples."""
        pcm = self.wire.samples(data)
        return pcm if self._resampler is None else float_to_int16(self._resampler.process(int16_to_float(pcm)))


class Encoder:
    """Samples of the engine -> bytes of a format."""

    def __init__(self, wire: WireFormat, sample_rate: int):
        self.wire = wire
        self._resampler = None if wire.rate == sample_rate else StreamingResampler(sample_rate, wire.rate)

    def encode(self, pcm: NDArray[np.int16]) -> bytes:
        if self._resampler is not None:
            pcm = float_to_int16(self._resampler.process(int16_to_float(pcm)))
        return self.wire.data(pcm)
