"""ConvNeXt blocks on a few new steps of B rows, as one kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from s2s.kernels.functions import gelu, layer_norm
from s2s.kernels.products import Matrices, compiled, product


class Blocks(NamedTuple):
    """The blocks' weights: taps [N, kernel, C]; bias, norm and norm_bias [N, C], their epsilon; matrices as packed."""

    taps: Any
    bias: Any
    norm: Any
    norm_bias: Any
    epsilon: float
    expand: Matrices
    contract: Matrices


@compiled
def run(x: Any, contexts: Any, blocks: Blocks) -> None:
    """x [B, T, C] goes through all blocks in place; contexts: the last inputs of each [B, N, kernel - 1, C]."""
    rows, steps, width = x.shape
    left = contexts.shape[2]
    seen = np.empty((left + steps, width), np.float32)
    y = np.empty((rows * steps, width), np.float32)
    wide = np.empty((rows * steps, blocks.expand.scales.shape[1]), np.float32)
    out = np.empty((rows * steps, blocks.contract.scales.shape[1]), np.float32)
    for i in range(contexts.shape[1]):
        for row in range(rows):
            seen[:left], seen[left:] = contexts[row, i], x[row]
            contexts[row, i] = seen[steps:]
            for step in range(steps):
                at = row * steps + step
                for c in range(width):
                    y[at, c] = blocks.bias[i, c]
                for k in range(left + 1):
                    for c in range(width):
                        y[at, c] += blocks.taps[i, k, c] * seen[step + k, c]
        layer_norm(y, blocks.norm[i], blocks.norm_bias[i], blocks.epsilon, y)
        product(y, blocks.expand, i, wide)
        gelu(wide)
        product(wide, blocks.contract, i, out)
        for row in range(rows):
            for step in range(steps):
                x[row, step] += out[row * steps + step, :width]
