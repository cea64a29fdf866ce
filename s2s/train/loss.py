"""Losses: what a codec's output is compared by, and the weighted cross-entropies of the token streams."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.audio.mel import LogMel


@dataclass(frozen=True)
class SpectralLossConfig:
    """Windows in samples with the mel bands of each; weights of the log-mel and of the STFT parts."""

    windows: tuple[int, ...] = (2048, 1024, 512, 256)
    num_mels: tuple[int, ...] = (128, 100, 64, 32)
    mel_weight: float = 1.0
    stft_weight: float = 0.5


class SpectralLoss(nn.Module):
    """Distance of log-mel and log-magnitude spectra at several window lengths, wav [B, N] against wav [B, N]."""

    def __init__(self, config: SpectralLossConfig, sample_rate: int):
        super().__init__()
        self.config = config
        pairs = zip(config.windows, config.num_mels, strict=True)
        self.scales = nn.ModuleList(LogMel(sample_rate, window, mels) for window, mels in pairs)

    def forward(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        mel, stft = output.new_zeros(()), output.new_zeros(())
        for scale in self.scales:
            assert isinstance(scale, LogMel)
            a, b = scale.magnitudes(output), scale.magnitudes(target)
            mel = mel + (scale.from_magnitudes(a) - scale.from_magnitudes(b)).abs().mean()
            # Compressed rather than logarithmic, so that bins nobody hears do not lead.
            stft = stft + ((a + 1e-4) ** 0.3 - (b + 1e-4) ** 0.3).abs().mean()
        count = len(self.scales)
        return {"mel": self.config.mel_weight * mel / count, "stft": self.config.stft_weight * stft / count}


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Hinge loss of the judges: real logits above 1, fake ones below -1."""
    return sum((F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)), torch.zeros(()))


def generator_loss(fake: list[Tensor]) -> Tensor:
    """Hinge loss of the codec: fake logits above 1."""
    return sum((F.relu(1 - f).mean() for f in fake), torch.zeros(()))


def feature_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Distance of the judges' inner activations, relative to their size."""
    total, count = torch.zeros(()), 0
    for real_layers, fake_layers in zip(real, fake, strict=True):
        for r, f in zip(real_layers, fake_layers, strict=True):
            total = total + (r.detach() - f).abs().mean() / (r.detach().abs().mean() + 1e-3)
            count += 1
    return total / max(1, count)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy where each position counts `weight`.

    Args:
        logits: [..., V].
        target: ids [...].
        weight: [...], zero leaves a position out.

    Returns:
        The weighted mean [] (over all processes, once their gradients are averaged) and the unreduced losses [...].
    """
    losses = F.cross_entropy(logits.flatten(0, -2).float(), target.flatten(), reduction="none").view_as(target)
    return (losses * weight).sum() / mean_over_ranks(weight.sum()).clamp(min=1e-6), losses


def mean_over_ranks(total: Tensor) -> Tensor:
    """The mean of a tensor over all processes: as denominator it makes their averaged losses those of one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return total
    total = total.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
