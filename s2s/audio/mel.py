"""Mel filter banks and the log-mel features that codec losses compare."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn


def mel_filterbank(sample_rate: int, n_fft: int, num_mels: int) -> Tensor:
    """Triangular filters on the Slaney scale with unit area, [n_fft / 2 + 1, num_mels]."""
    return torchaudio.functional.melscale_fbanks(
        n_freqs=n_fft // 2 + 1,
        f_min=0.0,
        f_max=sample_rate / 2,
        n_mels=num_mels,
        sample_rate=sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )


class LogMel(nn.Module):
    """Log-mel magnitudes of a whole signal, [B, N] -> [B, T, num_mels], hop a quarter of the window."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, num_mels: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, n_fft // 4
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filterbank(sample_rate, n_fft, num_mels), persistent=False)

    def magnitudes(self, wav: Tensor) -> Tensor:
        """Linear magnitudes [B, T, n_fft / 2 + 1] of wav [B, N]."""
        spectrum = torch.stft(wav, self.n_fft, self.hop, window=self.window, return_complex=True, center=True)
        return spectrum.abs().transpose(1, 2)

    def from_magnitudes(self, magnitudes: Tensor) -> Tensor:
        return torch.log(torch.clamp(magnitudes @ self.filters, min=1e-5))

    def forward(self, wav: Tensor) -> Tensor:
        return self.from_magnitudes(self.magnitudes(wav))
