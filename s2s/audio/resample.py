"""Sample rate conversion: soxr for whole signals, a short windowed-sinc filter for live ones.

soxr's streaming mode holds back up to 75 ms at 8 kHz because it filters in long blocks; a conversation cannot pay
that twice. `StreamingResampler` holds back 24 samples of the lower rate: 3 ms at 8 kHz, 1 ms at 24 kHz.
"""

from math import ceil, gcd

import numpy as np
import soxr
import torchaudio
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

_ZERO_CROSSINGS = 24  # on each side of the filter, counted at the lower of the two rates
_ROLLOFF = 0.95  # cutoff as a share of the lower Nyquist frequency: flat below 0.86, 70 dB down above 1.04 of it
_KAISER_BETA = 6.76  # 70 dB of stop-band attenuation
_BLOCK = 8192  # output samples computed at once, bounds the memory of a long chunk
_FEW_PHASES = 8  # up to so many it is cheaper to go through them one by one than to gather each output's filter


def resample(wav: NDArray[np.floating], from_rate: int, to_rate: int) -> NDArray[np.float32]:
    """Return `wav` ([C, N] or [N], from_rate Hz) at to_rate Hz, same dimensions, ceil(N * to / from) samples."""
    _check_rates(from_rate, to_rate)
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim not in (1, 2):
        raise ValueError(f"wav must be [channels, samples] or [samples], got shape {wav.shape}")
    if from_rate == to_rate:
        return wav
    length = ceil(wav.shape[-1] * to_rate / from_rate)
    out = np.zeros((*wav.shape[:-1], length), dtype=np.float32)
    if wav.size:
        resampled = soxr.resample(np.ascontiguousarray(wav.T), from_rate, to_rate, quality="HQ").T
        shared = min(length, resampled.shape[-1])  # soxr rounds the length, one sample either way
        out[..., :shared] = resampled[..., :shared]
    return out


def resample_tensor(wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Return `wav` ([..., N], from_rate Hz) at to_rate Hz on its own device, ceil(N * to / from) samples."""
    _check_rates(from_rate, to_rate)
    return torchaudio.functional.resample(wav, from_rate, to_rate)


class StreamingResampler:
    """Converts a live signal chunk by chunk; the chunks' outputs joined equal the output of one big chunk, bit for bit.

    Output sample n belongs to the time n / to_rate of the input: the timeline is not shifted, a sample only appears
    once the `delay` input samples after its time are known.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int = 1) -> None:
        _check_rates(from_rate, to_rate)
        divisor = gcd(from_rate, to_rate)
        self.from_rate, self.to_rate, self.channels = from_rate, to_rate, channels
        self._up, self._down = to_rate // divisor, from_rate // divisor
        self._half = 0 if from_rate == to_rate else ceil(_ZERO_CROSSINGS * max(1.0, from_rate / to_rate))
        self._filters = _polyphase(self._up, self._half, min(1.0, to_rate / from_rate))  # [up, 2 * half]
        self.reset()

    @property
    def delay(self) -> int:
        """Input samples after its own time that an output sample waits for."""
        return self._half

    def reset(self) -> None:
        """Forget the signal so far."""
        # One sample of silence less than `half`: the filter at input position i covers i - half + 1 ... i + half.
        self._buffer = np.zeros((self.channels, max(0, self._half - 1)), dtype=np.float32)
        self._origin = -self._buffer.shape[1]  # input position of the buffer's first sample
        self._emitted = 0

    def process(self, x: NDArray[np.floating], last: bool = False) -> NDArray[np.float32]:
        """Take the next samples ([C, N], or [N] of a single channel), return the output now known, same dimensions.

        `last` ends the signal: the rest comes out, in all ceil(N * to / from) samples, and the next call starts anew.
        """
        x = np.asarray(x, dtype=np.float32)
        chunk = np.atleast_2d(x)
        if x.ndim not in (1, 2) or chunk.shape[0] != self.channels:
            raise ValueError(f"expected [{self.channels}, samples], got shape {x.shape}")
        y = self._advance(chunk, last) if self._half else chunk.copy()
        return y[0] if x.ndim == 1 else y

    def _advance(self, chunk: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        tail = np.zeros((self.channels, self._half if last else 0), dtype=np.float32)
        self._buffer = np.concatenate([self._buffer, chunk, tail], axis=1)
        known = self._origin + self._buffer.shape[1] - self._half  # input positions with a full filter span
        end = max(self._emitted, -(-known * self._up // self._down))
        y = np.empty((self.channels, end - self._emitted), dtype=np.float32)
        outputs = self._by_phase if self._up <= _FEW_PHASES else self._gathered
        for start in range(self._emitted, end, _BLOCK):
            stop = min(start + _BLOCK, end)
            y[:, start - self._emitted : stop - self._emitted] = outputs(start, stop)
        self._emitted = end
        if last:
            self.reset()
        else:
            self._drop_used()
        return y

    def _by_phase(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the output samples `start` to `stop`, [C, stop - start]: those of one phase share a filter."""
        y = np.empty((self.channels, stop - start), dtype=np.float32)
        for index in range(start, min(start + self._up, stop)):
            position, phase = divmod(index * self._down, self._up)
            first = self._buffer[:, position - self._half + 1 - self._origin :]
            shape = (self.channels, len(range(index, stop, self._up)), 2 * self._half)
            along, step = first.strides
            spans = as_strided(first, shape, (along, step * self._down, step), writeable=False)
            # Not a product of matrices: a library's sums may depend on how many outputs there are.
            np.einsum("cnk,k->cn", spans, self._filters[phase], out=y[:, index - start :: self._up])
        return y

    def _gathered(self, start: int, stop: int) -> NDArray[np.float32]:
        """The same for many phases."""
        indices = np.arange(start, stop)
        position, phase = indices * self._down // self._up, indices * self._down % self._up
        first = position - self._half + 1 - self._origin  # where each filter begins in the buffer
        spans = sliding_window_view(self._buffer, 2 * self._half, axis=1)[:, first]  # [C, n, taps]
        return (spans * self._filters[phase]).sum(axis=-1)

    def _drop_used(self) -> None:
        """Forget the input before the next output's filter."""
        keep = self._emitted * self._down // self._up - self._half + 1
        used = min(keep - self._origin, self._buffer.shape[1])
        self._buffer = self._buffer[:, used:].copy()
        self._origin += used


def _polyphase(up: int, half: int, bandwidth: float) -> NDArray[np.float32]:
    """Return one Kaiser-windowed sinc per phase, [up, 2 * half], each of gain one at 0 Hz."""
    phase = np.arange(up)[:, None] / up
    distance = np.arange(1 - half, half + 1)[None] - phase  # of each tap to the output's position, in input samples
    inside = np.clip(1.0 - (distance / max(1, half)) ** 2, 0.0, None)
    filters = np.sinc(_ROLLOFF * bandwidth * distance) * np.i0(_KAISER_BETA * np.sqrt(inside))
    return (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32)


def _check_rates(*rates: int) -> None:
    for rate in rates:
        if rate <= 0 or int(rate) != rate:
            raise ValueError(f"a sample rate is a positive whole number of Hz, got {rate}")
