"""The codec of s2s: causal spectra in, residual vector quantisation at the frame rate, an inverse STFT out.

Nearly all layers run at the frame rate or a few times it, never at the sample rate, which is what makes the codec cheap
enough to train and to serve on two CPU cores. See Siuzdak 2023, "Vocos", for the inverse-STFT head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.audio.mel import mel_filterbank
from s2s.codec.base import CodecSpec, check_codes, check_wav
from s2s.codec.rvq import Quantised, ResidualVectorQuantizer, at_least_float32
from s2s.nn.conv import CausalConv1d, ConvNeXtBlocks, ConvState

FLOOR, LOUDNESS, SPREAD = 1e-5, -5.0, 3.0
"""Of the encoder's features, which are logarithms: the least magnitude, what they are about, how much they differ."""


@dataclass(frozen=True)
class SpectralCodecConfig:
    """Sizes of the codec. Lengths in samples; `depth` counts blocks.

    The decoder makes a window every `synthesis_hop` samples (0: as the encoder, every `hop_size`). Windows that overlap
    more than by half cost as much more, and leave less to chance in how one's phases follow the other's.
    """

    spec: CodecSpec = field(default_factory=CodecSpec)
    hop_size: int = 240
    analysis_window: int = 960
    synthesis_window: int = 480
    synthesis_hop: int = 0
    num_mels: int = 100
    hop_width: int = 192
    hop_depth: int = 3
    frame_width: int = 320
    frame_depth: int = 4
    decoder_frame_depth: int = 3
    decoder_hop_width: int = 256
    decoder_hop_depth: int = 5
    expansion: int = 3
    kernel_size: int = 7
    code_dim: int = 64

    def __post_init__(self) -> None:
        if self.spec.frame_size % self.hop_size:
            raise ValueError(f"frame_size {self.spec.frame_size} is not a multiple of hop_size {self.hop_size}")
        hop = self.decoder_hop
        if hop < 1 or self.spec.frame_size % hop:
            raise ValueError(f"frame_size {self.spec.frame_size} is not a multiple of synthesis_hop {hop}")
        if self.synthesis_window % hop or self.synthesis_window < 2 * hop:
            raise ValueError(
                f"synthesis_window is {self.synthesis_window}; only multiples of the hop from twice on ({2 * hop}) "
                "add up to one"
            )
        if self.analysis_window < self.hop_size:
            raise ValueError(f"analysis_window {self.analysis_window} is shorter than the hop {self.hop_size}")

    @property
    def hops_per_frame(self) -> int:
        return self.spec.frame_size // self.hop_size

    @property
    def decoder_hop(self) -> int:
        return self.synthesis_hop or self.hop_size


@dataclass
class EncoderState:
    """samples [B, analysis_window - hop_size] and the contexts of the convolutions."""

    samples: Tensor
    hop_blocks: list[ConvState]
    down: ConvState
    frame_blocks: list[ConvState]


@dataclass
class DecoderState:
    """The contexts of the convolutions and what earlier windows add to later hops [B, synthesis_window - hop]."""

    frame_blocks: list[ConvState]
    hop_blocks: list[ConvState]
    tail: Tensor


def windows_of(wav: Tensor, state: EncoderState | None, config: SpectralCodecConfig) -> Tensor:
    """The samples that each new hop is seen with, wav [B, N] -> [B, N / hop_size, analysis_window]."""
    if state is None:
        wav = F.pad(wav, (config.analysis_window - config.hop_size, 0))
    else:
        wav = torch.cat([state.samples, wav], dim=-1)
        state.samples.copy_(wav[:, wav.shape[-1] - state.samples.shape[-1] :].detach())
    return wav.unfold(-1, config.analysis_window, config.hop_size)


def spectrum_of(x: Tensor) -> Tensor:
    """Logarithms of magnitudes and phases side by side [..., 2 F] -> complex [..., F]."""
    magnitude, phase = at_least_float32(x).chunk(2, dim=-1)
    return torch.polar(torch.exp(magnitude.clamp(max=6.0)), phase)


class SpectralEncoder(nn.Module):
    """wav [B, N] -> latent vectors [B, T, code_dim]."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: SpectralCodecConfig):
        super().__init__()
        c = self.config = config
        self.register_buffer("window", torch.hann_window(c.analysis_window), persistent=False)
        filters = mel_filterbank(c.spec.sample_rate, c.analysis_window, c.num_mels)
        self.register_buffer("filters", filters, persistent=False)
        self.embed = nn.Linear(c.num_mels, c.hop_width)
        self.hop_blocks = _blocks(c.hop_depth, c.hop_width, c)
        stride = c.hops_per_frame
        self.down = CausalConv1d(c.hop_width, c.frame_width, 2 * stride, stride=stride)
        self.frame_blocks = _blocks(c.frame_depth, c.frame_width, c)
        self.norm = nn.LayerNorm(c.frame_width)
        self.out = nn.Linear(c.frame_width, c.code_dim)

    def init_state(self, rows: int) -> EncoderState:
        weight = self.embed.weight
        context = self.config.analysis_window - self.config.hop_size
        return EncoderState(
            torch.zeros(rows, context, dtype=weight.dtype, device=weight.device),
            self.hop_blocks.init_state(rows),
            self.down.init_state(rows),
            self.frame_blocks.init_state(rows),
        )

    def forward(self, wav: Tensor, state: EncoderState | None = None) -> Tensor:
        x = self.embed(self._log_mel(wav, state))
        x = self.hop_blocks(x, state and state.hop_blocks)
        x = self.down(x, state and state.down)
        x = self.frame_blocks(x, state and state.frame_blocks)
        return self.out(self.norm(x))

    def _log_mel(self, wav: Tensor, state: EncoderState | None) -> Tensor:
        """Features of roughly unit size, [B, N] -> [B, N / hop_size, num_mels]."""
        windows = windows_of(wav, state, self.config) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(windows))
        # The library's abs guards against overflow, at three times the cost.
        magnitudes = spectrum.square().sum(dim=-1).sqrt()
        return (torch.log(torch.clamp(magnitudes @ self.filters, min=FLOOR)) - LOUDNESS) / SPREAD


class SpectralDecoder(nn.Module):
    """Quantised vectors [B, T, code_dim] -> wav [B, N]."""

    window: Tensor

    def __init__(self, config: SpectralCodecConfig):
        super().__init__()
        c = self.config = config
        self.overlap = c.synthesis_window // c.decoder_hop
        # Windows shifted by a hop add up to half their number.
        window = torch.hann_window(c.synthesis_window) * (2 / self.overlap)
        self.register_buffer("window", window, persistent=False)
        self.embed = nn.Linear(c.code_dim, c.frame_width)
        self.frame_blocks = _blocks(c.decoder_frame_depth, c.frame_width, c)
        self.hops_per_frame = c.spec.frame_size // c.decoder_hop
        self.up = nn.Linear(c.frame_width, c.decoder_hop_width * self.hops_per_frame)
        self.hop_blocks = _blocks(c.decoder_hop_depth, c.decoder_hop_width, c)
        self.norm = nn.LayerNorm(c.decoder_hop_width)
        self.head = nn.Linear(c.decoder_hop_width, c.synthesis_window + 2)

    def init_state(self, rows: int) -> DecoderState:
        weight, later = self.embed.weight, self.config.synthesis_window - self.config.decoder_hop
        return DecoderState(
            self.frame_blocks.init_state(rows),
            self.hop_blocks.init_state(rows),
            torch.zeros(rows, later, dtype=weight.dtype, device=weight.device),
        )

    def forward(self, vectors: Tensor, state: DecoderState | None = None) -> Tensor:
        x = self.embed(vectors)
        x = self.frame_blocks(x, state and state.frame_blocks)
        x = self.up(x).unflatten(-1, (self.hops_per_frame, -1)).flatten(1, 2)
        x = self.hop_blocks(x, state and state.hop_blocks)
        return self._overlap_add(spectrum_of(self.head(self.norm(x))), state)

    def _overlap_add(self, spectrum: Tensor, state: DecoderState | None) -> Tensor:
        """Spectra [B, hops, F] -> [B, hops * hop]: all but the first hop of each window waits for the next ones."""
        parts = (torch.fft.irfft(spectrum) * self.window).unflatten(-1, (self.overlap, -1)).unbind(2)
        hops, later = parts[0].shape[1], self.overlap - 1
        shifted = [F.pad(part, (0, 0, at, later - at)) for at, part in enumerate(parts)]
        if state is not None:
            before = state.tail.unflatten(-1, (later, -1)).to(parts[0].dtype)
            shifted.append(F.pad(before, (0, 0, 0, hops)))
        wav = torch.stack(shifted).sum(dim=0)
        if state is not None:
            state.tail.copy_(wav[:, hops:].flatten(1).detach())
        return wav[:, :hops].flatten(1)


class SpectralCodec(nn.Module):
    """Encoder, quantiser and decoder as one `Codec`."""

    def __init__(self, config: SpectralCodecConfig):
        super().__init__()
        self.config, self.spec = config, config.spec
        self.synthesis_delay = config.synthesis_window - config.decoder_hop
        self.encoder = SpectralEncoder(config)
        self.quantizer = ResidualVectorQuantizer(config.spec.num_codebooks, config.spec.codebook_size, config.code_dim)
        self.decoder = SpectralDecoder(config)

    def init_encoder(self, rows: int) -> EncoderState:
        return self.encoder.init_state(rows)

    def init_decoder(self, rows: int) -> DecoderState:
        return self.decoder.init_state(rows)

    def encode(self, wav: Tensor, state: EncoderState | None = None) -> Tensor:
        check_wav(wav, self.spec)
        return self.quantizer.encode(self.encoder(wav[:, 0], state))

    def decode(self, codes: Tensor, state: DecoderState | None = None) -> Tensor:
        check_codes(codes, self.spec)
        return self.decoder(self.quantizer.decode(codes), state)[:, None]

    def forward(self, wav: Tensor, levels: Tensor | None = None) -> tuple[Tensor, Quantised]:
        """Training: wav [B, 1, N] -> (decoded [B, 1, N], late by `synthesis_delay`; what the quantiser did)."""
        quantised = self.quantizer(self.encoder(wav[:, 0]), levels)
        return self.decoder(quantised.vectors)[:, None], quantised


def _blocks(depth: int, width: int, config: SpectralCodecConfig) -> ConvNeXtBlocks:
    return ConvNeXtBlocks(depth, width, config.expansion * width, config.kernel_size)
