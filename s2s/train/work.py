"""The work in a training batch: frames of audio, and floating-point operations as MFU counts them.

A product with a weight costs 2 operations forward and 4 backward for each position it is applied to, so a batch costs
6 * (parameters) * (positions), summed over the parts of a model that run at different rates; 2 where a weight is not
trained and none below it is. Attention scores, norms, losses, transforms and judges are not counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from s2s.codec.spectral import SpectralCodec
from s2s.models.duplex import DuplexModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """frames: codec frames of conversation or clips in a batch; flops: operations forward and backward."""

    frames: float = 0.0
    flops: float = 0.0


def duplex_flops(model: DuplexModel, steps: int, depth_steps: int, thinks: bool = True) -> float:
    """Operations of a batch with `steps` columns in all, of which the depth transformer saw `depth_steps`; where it
    `thinks`, the backbone saw all of them."""
    said: list[nn.Module] = [model.backbone, model.text_heads] if thinks else []
    if model.talker is not None and depth_steps:
        said.append(model.talker)
    flops = (2.0 * _size(said) + 4.0 * _size(said, trained=True)) * steps
    if model.depth is not None and depth_steps:
        depth, count = model.depth, model.depth.num_codebooks
        # Weights of their own per codebook are each applied once; shared ones once per codebook.
        layers = _size(depth.layers) * (1 if depth.config.per_step_weights else count)
        once = _size([depth.condition, depth.from_code, depth.heads])
        flops += 6.0 * (layers + once) * depth_steps
    return flops


def codec_flops(codec: SpectralCodec, samples: int) -> float:
    """Operations of a batch with `samples` samples in all."""
    e, d, c = codec.encoder, codec.decoder, codec.config
    at_hops, at_decoder_hops = _size([e.embed, e.hop_blocks]), _size([d.hop_blocks, d.head])
    at_frames = _size([e.down, e.frame_blocks, e.out, d.embed, d.frame_blocks, d.up])
    return 6.0 * samples * (at_hops / c.hop_size + at_decoder_hops / c.decoder_hop + at_frames / c.spec.frame_size)


def _size(modules: Iterable[nn.Module], trained: bool = False) -> int:
    """Entries of all weights of two and more dimensions, or of those alone that are trained."""
    weights = (p for module in modules for p in module.parameters() if p.dim() >= 2)
    return sum(p.numel() for p in weights if p.requires_grad or not trained)


def count_skipped(skipped: int, allowed: int) -> int:
    """One more step left out; RuntimeError once they are more than allowed."""
    if skipped + 1 > allowed:
        raise RuntimeError(
            f"gradients were not finite in {skipped + 1} steps, allowed are {allowed}: "
            "lower the learning rate or look at the data"
        )
    log.warning("step left out: its gradients are not finite (%d of %d allowed)", skipped + 1, allowed)
    return skipped + 1
