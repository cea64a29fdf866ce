"""The spectral codec of a live step, one kernel each way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from s2s.codec.rvq import ResidualVectorQuantizer
from s2s.codec.spectral import FLOOR, LOUDNESS, SPREAD, DecoderState, EncoderState, SpectralDecoder, SpectralEncoder
from s2s.kernels import spectral
from s2s.kernels.operations import Kept
from s2s.kernels.products import pack
from s2s.nn.compiled import CompiledBlocks, numpy_of, packed
from s2s.nn.conv import ConvState


class CompiledEncoder(nn.Module):
    """A `SpectralEncoder` on a few frames at a time."""

    window: Tensor

    def __init__(self, exact: SpectralEncoder):
        super().__init__()
        c = self.config = exact.config
        self.hop_blocks, self.frame_blocks = CompiledBlocks(exact.hop_blocks), CompiledBlocks(exact.frame_blocks)
        self.register_buffer("window", exact.window.clone(), persistent=False)
        self.left, self.hop_width, conv = exact.down.left, c.hop_width, exact.down.conv
        filters = numpy_of(exact.filters)
        used = filters > 0
        bins = np.stack([np.argmax(used, axis=0), len(filters) - np.argmax(np.flip(used, axis=0), axis=0)], axis=1)
        self.kept = Kept(
            spectral.Encoder(
                filters,
                np.where(np.any(used, axis=0)[:, None], bins, 0),
                FLOOR,
                LOUDNESS,
                SPREAD,
                packed(exact.embed),
                self.hop_blocks.kept.weights,
                pack(numpy_of(conv.weight.transpose(1, 2).flatten(1))[None], numpy_of(conv.bias)[None]),
                exact.down.stride,
                self.frame_blocks.kept.weights,
                numpy_of(exact.norm.weight),
                numpy_of(exact.norm.bias),
                exact.norm.eps,
                packed(exact.out),
                c.code_dim,
            )
        )

    def init_state(self, rows: int) -> EncoderState:
        return EncoderState(
            torch.zeros(rows, self.config.analysis_window - self.config.hop_size),
            self.hop_blocks.init_state(rows),
            ConvState(torch.zeros(rows, self.left, self.hop_width)),
            self.frame_blocks.init_state(rows),
        )

    def forward(self, wav: Tensor, state: EncoderState) -> Tensor:
        """wav [B, N] -> latent vectors [B, T, code_dim]."""
        windows = torch.ops.s2s.windows(wav, state.samples, self.window, self.config.hop_size)
        spectrum = torch.view_as_real(torch.fft.rfft(windows))
        contexts = state.hop_blocks[0].context, state.down.context, state.frame_blocks[0].context
        vectors: Tensor = torch.ops.s2s.encode(spectrum, *contexts, self.kept.number)
        return vectors


class CompiledDecoder(nn.Module):
    """A `SpectralDecoder` on a few frames at a time."""

    window: Tensor

    def __init__(self, exact: SpectralDecoder):
        super().__init__()
        self.frame_blocks, self.hop_blocks = CompiledBlocks(exact.frame_blocks), CompiledBlocks(exact.hop_blocks)
        self.register_buffer("window", exact.window.clone(), persistent=False)
        self.later = exact.config.synthesis_window - exact.config.decoder_hop
        self.kept = Kept(
            spectral.Decoder(
                packed(exact.embed),
                self.frame_blocks.kept.weights,
                packed(exact.up),
                exact.hops_per_frame,
                self.hop_blocks.kept.weights,
                numpy_of(exact.norm.weight),
                numpy_of(exact.norm.bias),
                exact.norm.eps,
                packed(exact.head),
                exact.head.out_features // 2,
            )
        )

    def init_state(self, rows: int) -> DecoderState:
        contexts = self.frame_blocks.init_state(rows), self.hop_blocks.init_state(rows)
        return DecoderState(*contexts, torch.zeros(rows, self.later))

    def forward(self, vectors: Tensor, state: DecoderState) -> Tensor:
        """vectors [B, T, code_dim] -> wav [B, N]."""
        contexts = state.frame_blocks[0].context, state.hop_blocks[0].context
        spectra = torch.view_as_complex(torch.ops.s2s.decode(vectors, *contexts, self.kept.number))
        wav: Tensor = torch.ops.s2s.overlap(torch.fft.irfft(spectra), self.window, state.tail)
        return wav


class CompiledQuantizer(nn.Module):
    """A `ResidualVectorQuantizer` whose codebooks no longer change."""

    codebooks: Tensor

    def __init__(self, exact: ResidualVectorQuantizer):
        super().__init__()
        self.register_buffer("codebooks", exact.codebooks.float().clone(), persistent=False)
        entries = numpy_of(self.codebooks)
        half_norms = 0.5 * (entries**2).sum(axis=2)
        self.kept = Kept((np.ascontiguousarray(entries.transpose(0, 2, 1)), half_norms))

    def encode(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> codes [B, K, T]."""
        codes: Tensor = torch.ops.s2s.search(x.flatten(0, 1), self.kept.number)
        return codes.view(*x.shape[:2], -1).transpose(1, 2)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, K, T] -> vectors [B, T, D]."""
        vectors: Tensor = torch.ops.s2s.embed(codes, self.codebooks)
        return vectors
