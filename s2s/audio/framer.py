"""Cuts a signal that arrives in chunks of any length into frames of one length."""

import numpy as np
from numpy.typing import NDArray


class Framer:
    """Collects mono samples and hands out whole frames of `frame_size`; the dtype is that of the first chunk."""

    def __init__(self, frame_size: int) -> None:
        if frame_size < 1:
            raise ValueError(f"frame_size must be at least 1 sample, got {frame_size}")
        self.frame_size = frame_size
        self._pending: NDArray | None = None  # fewer than frame_size samples

    @property
    def num_pending(self) -> int:
        """Samples taken in that are not yet part of a frame handed out."""
        return 0 if self._pending is None else len(self._pending)

    def push(self, samples: NDArray) -> NDArray:
        """Take samples [N], return the frames they complete, [F, frame_size] with F possibly 0."""
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise ValueError(f"a Framer takes one channel [samples], got shape {samples.shape}")
        if self._pending is not None:
            samples = np.concatenate([self._pending, samples.astype(self._pending.dtype, copy=False)])
        whole = len(samples) // self.frame_size * self.frame_size
        self._pending = samples[whole:].copy()
        return samples[:whole].reshape(-1, self.frame_size).copy()

    def flush(self) -> NDArray:
        """End the signal: return the samples left as one frame padded with zeros, [1 or 0, frame_size]."""
        pending, self._pending = self._pending, None
        if pending is None or not len(pending):
            return np.zeros((0, self.frame_size), dtype=np.float32 if pending is None else pending.dtype)
        return np.pad(pending, (0, self.frame_size - len(pending)))[None]
