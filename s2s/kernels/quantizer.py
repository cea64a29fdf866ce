"""Residual vector quantisation: the search of all levels and what is found there, a kernel each."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2s.kernels.products import compiled


@compiled
def search(x: Any, entries: Any, half_norms: Any) -> Any:
    """codes [M, K] of x [M, D]; entries [K, D, V], half of their squared lengths [K, V]."""
    rows, width = x.shape
    levels, _, size = entries.shape
    residual, scores = x.copy(), np.empty(size, np.float32)
    codes = np.empty((rows, levels), np.int64)
    for level in range(levels):
        for row in range(rows):
            scores[:] = -half_norms[level]
            for d in range(width):
                value = residual[row, d]
                for i in range(size):
                    scores[i] += value * entries[level, d, i]
            best = 0
            for i in range(1, size):
                if scores[i] > scores[best]:
                    best = i
            codes[row, level] = best
            for d in range(width):
                residual[row, d] -= entries[level, d, best]
    return codes


@compiled
def embed(codes: Any, codebooks: Any) -> Any:
    """The sum of the entries of each step: codes [B, k, T], codebooks [K, V, D] -> [B, T, D]."""
    rows, levels, steps = codes.shape
    out = np.zeros((rows, steps, codebooks.shape[2]), np.float32)
    for row in range(rows):
        for step in range(steps):
            for level in range(levels):
                out[row, step] += codebooks[level, codes[row, level, step]]
    return out
