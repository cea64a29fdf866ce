"""What every codec offers: its numbers and its two directions, each with a state of its own."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import log2
from typing import Protocol

from torch import Tensor

from s2s.streaming import State


@dataclass(frozen=True)
class CodecSpec:
    """The numbers of a codec: rates in Hz, `frame_size` in samples."""

    sample_rate: int = 24000
    frame_size: int = 960
    num_codebooks: int = 8
    codebook_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("sample_rate", "frame_size", "num_codebooks", "codebook_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed are positive integers")

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second, exact."""
        return Fraction(self.sample_rate, self.frame_size)

    @property
    def bits_per_second(self) -> float:
        return float(self.frame_rate) * self.num_codebooks * log2(self.codebook_size)


class Codec(Protocol):
    """Audio to tokens and back; both directions stream, and chunking never changes the result.

    `synthesis_delay` is the number of samples by which decoded audio lags the audio that was encoded.
    """

    spec: CodecSpec
    synthesis_delay: int

    def init_encoder(self, rows: int) -> State: ...

    def init_decoder(self, rows: int) -> State: ...

    def encode(self, wav: Tensor, state: State | None = None) -> Tensor:
        """wav [B, 1, T * frame_size] -> codes [B, K, T]."""
        ...

    def decode(self, codes: Tensor, state: State | None = None) -> Tensor:
        """codes [B, K, T] -> wav [B, 1, T * frame_size]."""
        ...


def check_wav(wav: Tensor, spec: CodecSpec) -> None:
    """Raise ValueError unless wav is [B, 1, N] with N one or more whole frames."""
    if wav.dim() != 3 or wav.shape[1] != 1:
        raise ValueError(f"wav has the shape {list(wav.shape)}, expected [B, 1, N]")
    if wav.shape[-1] % spec.frame_size:
        raise ValueError(
            f"wav has {wav.shape[-1]} samples, which is not a multiple of the frame of {spec.frame_size}: use a Framer"
        )
    if not wav.shape[-1]:
        raise ValueError(f"wav has no samples, expected one frame of {spec.frame_size} or more")


def check_codes(codes: Tensor, spec: CodecSpec) -> None:
    """Raise ValueError unless codes is [B, k, T] with 1 <= k <= K and 1 <= T."""
    if codes.dim() != 3 or not 1 <= codes.shape[1] <= spec.num_codebooks or not codes.shape[2]:
        raise ValueError(f"codes have the shape {list(codes.shape)}, expected [B, 1..{spec.num_codebooks}, 1 or more]")
