"""Small STFT discriminators: judges of whether a crop of audio is a recording or a codec's output.

Source: Défossez et al. 2022, "High Fidelity Neural Audio Compression", with strides in frequency early so that two CPU
cores can afford them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StftDiscriminator(nn.Module):
    """wav [B, N] -> (logits [B, 1, T, F], activations of each layer)."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        norm = nn.utils.parametrizations.weight_norm
        sizes = [(2, channels, (3, 9), (1, 4)), (channels, 2 * channels, (3, 5), (1, 2))]
        sizes += [(2 * channels, 2 * channels, (3, 5), (1, 2)), (2 * channels, 2 * channels, (3, 3), (1, 1))]
        self.layers = nn.ModuleList(
            norm(nn.Conv2d(i, o, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2)))
            for i, o, kernel, stride in sizes
        )
        self.out = norm(nn.Conv2d(2 * channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectrum = torch.stft(wav, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        # Cube-root compression of the size, phase kept: quiet bins are seen too.
        spectrum = spectrum * (spectrum.abs() + 1e-5) ** (-2 / 3)
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)
        activations = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            activations.append(x)
        return self.out(x), activations


class Discriminators(nn.Module):
    """One judge per window length, wav [B, N] -> (logits of each, activations of each)."""

    def __init__(self, windows: tuple[int, ...] = (1024, 512, 256), channels: int = 16):
        super().__init__()
        self.judges = nn.ModuleList(StftDiscriminator(window, channels) for window in windows)

    def forward(self, wav: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        results = [judge(wav) for judge in self.judges]
        return [logits for logits, _ in results], [layers for _, layers in results]
