"""Tiny random-weight builders: everything the tests need in place of trained weights, made in milliseconds.

Every parameter is random, those too that start at zero or one: an untouched bias or scale would hide mistakes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from s2s.codec.base import CodecSpec
from s2s.codec.encodec import EncodecCodec, EncodecConfig
from s2s.codec.spectral import SpectralCodec, SpectralCodecConfig
from s2s.models.depth import DepthConfig
from s2s.models.duplex import DuplexConfig, DuplexModel
from s2s.models.step import DuplexStep
from s2s.nn.sampling import Controls
from s2s.nn.transformer import TransformerConfig
from s2s.streams import StreamLayout, dialogue_layout

SPEC = CodecSpec(sample_rate=24000, frame_size=960, num_codebooks=4, codebook_size=32)
"""The real clock (40 ms frames at 24 kHz) with few codebooks, for whatever deals in audio."""

SMALL_SPEC = CodecSpec(sample_rate=800, frame_size=32, num_codebooks=3, codebook_size=11)
"""The same at a fraction of the samples, for tests of many runs."""

TEXT_VOCAB_SIZE = 19

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def stirred(module: M, seed: int = 0) -> M:
    """Add noise to every parameter, so that none is left at zero or one; returns the module in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def tiny_codec_config(spec: CodecSpec = SPEC) -> SpectralCodecConfig:
    hop_size = spec.frame_size // 4
    return SpectralCodecConfig(
        spec=spec,
        hop_size=hop_size,
        analysis_window=3 * hop_size,
        synthesis_window=2 * hop_size,
        num_mels=10,
        hop_width=12,
        hop_depth=1,
        frame_width=14,
        frame_depth=1,
        decoder_frame_depth=1,
        decoder_hop_width=10,
        decoder_hop_depth=1,
        expansion=2,
        kernel_size=3,
        code_dim=6,
    )


def tiny_codec(spec: CodecSpec = SPEC, seed: int = 0) -> SpectralCodec:
    """Our codec with a few thousand random weights; its codebooks hold latents of noise, so that every code occurs."""
    torch.manual_seed(seed)
    codec = stirred(SpectralCodec(tiny_codec_config(spec)), seed)
    noise = torch.randn(1, 4 * spec.codebook_size, spec.frame_size)
    noise[:, ::2] *= 10 ** torch.linspace(-4, 0, 2 * spec.codebook_size)[:, None]
    with torch.no_grad():
        residual = codec.encoder(noise.flatten(1))
        for codebook in codec.quantizer.codebooks:
            codebook.copy_(residual[0, torch.randperm(residual.shape[1])[: len(codebook)]])
            residual = residual - codebook[torch.cdist(residual[0], codebook).argmin(dim=-1)]
    return codec


def tiny_layout(spec: CodecSpec = SPEC, acoustic_delay: int = 0) -> StreamLayout:
    return dialogue_layout(spec.num_codebooks, spec.codebook_size, TEXT_VOCAB_SIZE, acoustic_delay)


def tiny_model_config(
    layout: StreamLayout | None = None,
    window: int = 5,
    per_step_weights: bool = False,
    spelling_layer: int = 0,
    ahead: bool = False,
    plan_tokens: int = 0,
    talker: bool = False,
    talker_keeps_time: bool = False,
) -> DuplexConfig:
    return DuplexConfig(
        layout=layout or tiny_layout(),
        backbone=TransformerConfig(width=24, num_layers=2, num_heads=4, num_kv_heads=2, hidden=32, window=window),
        depth=DepthConfig(
            width=12, num_layers=2, num_heads=2, hidden=16, code_width=6, per_step_weights=per_step_weights
        ),
        code_width=6,
        spelling_layer=spelling_layer,
        ahead=ahead,
        plan_tokens=plan_tokens,
        talker=TransformerConfig(width=16, num_layers=1, num_heads=2, num_kv_heads=1, hidden=20, window=4)
        if talker
        else None,
        talker_keeps_time=talker_keeps_time,
    )


def tiny_model(
    layout: StreamLayout | None = None, window: int = 5, per_step_weights: bool = False, seed: int = 0, **kind: Any
) -> DuplexModel:
    """The duplex model with a few thousand random weights; `kind`: what else `tiny_model_config` takes."""
    torch.manual_seed(seed)
    return stirred(DuplexModel(tiny_model_config(layout, window, per_step_weights, **kind)), seed)


def tiny_step(
    spec: CodecSpec = SPEC,
    acoustic_delay: int = 0,
    window: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **kind: Any,
) -> DuplexStep:
    """A whole step, wav to wav, of a `tiny_model` of this kind."""
    codec = tiny_codec(spec, seed).to(dtype)
    model = tiny_model(tiny_layout(spec, acoustic_delay), window, seed=seed, **kind)
    return DuplexStep(codec, model.to(dtype))


def same_controls(rows: int, temperature: float = 0.0, top_k: int = 0, seed: int = 7) -> Controls:
    """Controls that are equal in all rows, so that rows can change places."""
    return Controls(torch.full((rows,), temperature), torch.full((rows,), top_k), torch.full((rows,), seed))


def random_tracks(layout: StreamLayout, rows: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Random content for every stream, name -> [B, rows, T]."""
    generator = torch.Generator().manual_seed(seed)
    return {
        s.name: torch.randint(s.vocab_size, (rows, s.num_rows, length), generator=generator) for s in layout.streams
    }


def tiny_encodec(num_codebooks: int = 3, seed: int = 0) -> EncodecCodec:
    """The structure of the EnCodec model, narrow and with few and short strides."""
    torch.manual_seed(seed)
    config = EncodecConfig(CodecSpec(900, 12, num_codebooks, 16), num_filters=4, dimension=6, ratios=(3, 2, 2))
    codec = stirred(EncodecCodec(config), seed)
    with torch.no_grad():
        latents = codec.encoder(torch.randn(1, 64 * config.spec.frame_size, 1))[0]
        for codebook in codec.quantizer.codebooks:
            codebook.copy_(latents[torch.randperm(len(latents))[: len(codebook)]] - latents.mean(dim=0))
        codec.quantizer.codebooks[0] += latents.mean(dim=0)
    return codec
