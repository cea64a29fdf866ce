"""What the spectral codec does with a few new hops of B rows around its Fourier transforms, a kernel for each part."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from s2s.kernels import convnext
from s2s.kernels.functions import exp, layer_norm, sine_cosine
from s2s.kernels.products import ONLY, Matrices, compiled, product

_blocks = convnext.run


class Encoder(NamedTuple):
    """The weights. filters [bins, mels], of which mel m has some from bins[m, 0] to before bins[m, 1]; their logarithms
    are of `floor` at least, about `loudness`, and differ by `spread`.

    down: of the inputs of a window, one after the other, and how many of them the next window is further on, `stride`;
    norm and norm_bias [C] with their epsilon; width: of the vectors that come out.
    """

    filters: Any
    bins: Any
    floor: float
    loudness: float
    spread: float
    embed: Matrices
    hop_blocks: convnext.Blocks
    down: Matrices
    stride: int
    frame_blocks: convnext.Blocks
    norm: Any
    norm_bias: Any
    epsilon: float
    out: Matrices
    width: int


class Decoder(NamedTuple):
    """The weights; hops: of a frame; norm and norm_bias [C] with their epsilon; bins: of the spectra that come out."""

    embed: Matrices
    frame_blocks: convnext.Blocks
    up: Matrices
    hops: int
    hop_blocks: convnext.Blocks
    norm: Any
    norm_bias: Any
    epsilon: float
    head: Matrices
    bins: int


@compiled
def _through(x: Any, matrices: Matrices, width: int) -> Any:
    """x [B, T, I] times a matrix -> [B, T, width]."""
    rows, steps, inputs = x.shape
    out = np.empty((rows * steps, matrices.scales.shape[1]), np.float32)
    product(x.reshape(rows * steps, inputs), matrices, ONLY, out)
    return out[:, :width].copy().reshape(rows, steps, width)


@compiled
def _normed(x: Any, norm: Any, bias: Any, epsilon: float) -> Any:
    rows, steps, width = x.shape
    out = np.empty((rows * steps, width), np.float32)
    layer_norm(x.reshape(rows * steps, width), norm, bias, epsilon, out)
    return out.reshape(rows, steps, width)


@compiled
def windows(wav: Any, before: Any, shape: Any, hop: int) -> Any:
    """wav [B, N] -> what each new hop is seen with, times the shape [W] of a window: [B, N / hop, W].

    before [B, W - hop]: the samples before these, updated.
    """
    rows, size = wav.shape
    earlier = before.shape[1]
    out, seen = np.empty((rows, size // hop, len(shape)), np.float32), np.empty(earlier + size, np.float32)
    for row in range(rows):
        seen[:earlier], seen[earlier:] = before[row], wav[row]
        before[row] = seen[size:]
        for step in range(size // hop):
            for i in range(len(shape)):
                out[row, step, i] = seen[step * hop + i] * shape[i]
    return out


@compiled
def _log_mel(spectrum: Any, encoder: Encoder) -> Any:
    """Features [B, T, mels] of spectrum [B, T, bins, 2], as `s2s.codec.spectral.SpectralEncoder` has them."""
    rows, steps, size, _ = spectrum.shape
    mels = len(encoder.bins)
    floor, loudness, spread = np.float32(encoder.floor), np.float32(encoder.loudness), np.float32(encoder.spread)
    out, magnitude = np.empty((rows, steps, mels), np.float32), np.empty(size, np.float32)
    for row in range(rows):
        for step in range(steps):
            for i in range(size):
                real, imaginary = spectrum[row, step, i, 0], spectrum[row, step, i, 1]
                magnitude[i] = np.sqrt(real * real + imaginary * imaginary)
            for m in range(mels):
                total = np.float32(0)
                for i in range(encoder.bins[m, 0], encoder.bins[m, 1]):
                    total += magnitude[i] * encoder.filters[i, m]
                out[row, step, m] = (math.log(max(total, floor)) - loudness) / spread
    return out


@compiled
def encode(spectrum: Any, hops: Any, down: Any, frames: Any, encoder: Encoder) -> Any:
    """spectrum [B, T * stride, bins, 2] -> latent vectors [B, T, width].

    Args: hops, frames: contexts of the blocks, see `convnext.run`; down: the last inputs [B, left, C] of the
    convolution between them, updated.
    """
    x = _through(_log_mel(spectrum, encoder), encoder.embed, encoder.hop_blocks.taps.shape[2])
    _blocks(x, hops, encoder.hop_blocks)
    rows, steps, inputs = x.shape
    left, stride = down.shape[1], encoder.stride
    windows = np.empty((rows, steps // stride, (left + stride) * inputs), np.float32)
    seen = np.empty((left + steps, inputs), np.float32)
    for row in range(rows):
        seen[:left], seen[left:] = down[row], x[row]
        down[row] = seen[steps:]
        for step in range(steps // stride):
            windows[row, step] = seen[step * stride : step * stride + left + stride].reshape(-1)
    y = _through(windows, encoder.down, encoder.frame_blocks.taps.shape[2])
    _blocks(y, frames, encoder.frame_blocks)
    return _through(_normed(y, encoder.norm, encoder.norm_bias, encoder.epsilon), encoder.out, encoder.width)


@compiled
def decode(vectors: Any, frames: Any, hops: Any, decoder: Decoder) -> Any:
    """vectors [B, T, code_dim] -> spectra [B, T * hops, bins, 2]; contexts as in `encode`."""
    x = _through(vectors, decoder.embed, decoder.frame_blocks.taps.shape[2])
    _blocks(x, frames, decoder.frame_blocks)
    inner, steps, bins = decoder.hop_blocks.taps.shape[2], x.shape[1] * decoder.hops, decoder.bins
    y = _through(x, decoder.up, inner * decoder.hops).reshape(len(x), steps, inner)
    _blocks(y, hops, decoder.hop_blocks)
    told = _through(_normed(y, decoder.norm, decoder.norm_bias, decoder.epsilon), decoder.head, 2 * bins)
    spectra, turned = np.empty((len(x), steps, bins, 2), np.float32), np.empty((2, bins), np.float32)
    for row in range(len(x)):
        for step in range(steps):
            for i in range(bins):
                magnitude = exp(min(told[row, step, i], np.float32(6)))
                sine, cosine = sine_cosine(told[row, step, bins + i])
                turned[0, i], turned[1, i] = magnitude * cosine, magnitude * sine
            spectra[row, step, :, 0], spectra[row, step, :, 1] = turned[0], turned[1]
    return spectra


@compiled
def overlap(windows: Any, shape: Any, tail: Any) -> Any:
    """windows [B, T, W], each times its shape [W], -> wav [B, T * hop]; tail: what later hops have of them already."""
    rows, steps, size = windows.shape
    hop = size - tail.shape[1]
    wav = np.zeros((rows, steps * hop + size - hop), np.float32)
    for row in range(rows):
        wav[row, : size - hop] = tail[row]
        for step in range(steps):
            for i in range(size):
                wav[row, step * hop + i] += windows[row, step, i] * shape[i]
        tail[row] = wav[row, steps * hop :]
    return wav[:, : steps * hop].copy()
