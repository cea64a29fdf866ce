"""A codec without weights for tests of data: a frame's codes are made from its sum, its peak and the frame before."""

from __future__ import annotations

import torch
from torch import Tensor

from s2s.codec.base import CodecSpec, check_wav


class FakeCodec:
    """Two codebooks of 64 at 200 samples a frame; the second codebook needs the state of the stream."""

    spec = CodecSpec(sample_rate=5_000, frame_size=200, num_codebooks=2, codebook_size=64)
    synthesis_delay = 0

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.encoded_samples = 0

    def init_encoder(self, rows: int) -> Tensor:
        return torch.zeros(rows, 1)

    def init_decoder(self, rows: int) -> Tensor:
        return torch.zeros(rows, 1)

    def encode(self, wav: Tensor, state: Tensor | None = None) -> Tensor:
        check_wav(wav, self.spec)
        self.encoded_samples += wav.numel()
        state = self.init_encoder(wav.shape[0]) if state is None else state
        peak = wav.unflatten(-1, (-1, self.spec.frame_size)).abs().amax(-1).squeeze(1)  # [B, T]
        before = torch.cat([state, peak[:, :-1]], dim=1)
        state.copy_(peak[:, -1:])
        codes = torch.stack([peak, before], dim=1) * 50
        return (codes.round().long() + self.offset) % self.spec.codebook_size

    def decode(self, codes: Tensor, state: Tensor | None = None) -> Tensor:
        return codes[:, :1].float().repeat_interleave(self.spec.frame_size, dim=-1) / 50
