"""The depth transformer for one new step of B rows: all codebooks, each sampled given those before, as one kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from s2s.kernels.functions import exp, rms_norm
from s2s.kernels.products import ONLY, Matrices, compiled, product
from s2s.kernels.transformer import Layers, attend, feed_forward


class Depth(NamedTuple):
    """The weights: `layers` has matrices layer by layer and within a layer codebook by codebook, norms per layer.

    condition: what each codebook is told of the step, beside its `place` [K, D].
    codes [(K - 1) * table_size, W]; from_code and heads: one matrix per codebook, from_code for all but the first one.
    Where codebooks share a matrix there is one instead of K.
    """

    condition: Matrices
    place: Any
    codes: Any
    from_code: Matrices
    layers: Layers
    norm: Any
    heads: Matrices


@compiled
def kth_largest(values: Any, k: int) -> Any:
    """The k-th largest of values [N], which change places. The library's own takes eight seconds to compile."""
    low, high, at = 0, len(values) - 1, k - 1
    while low < high:
        pivot, i, j = values[(low + high) // 2], low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if at <= j:
            high = j
        elif at >= i:
            low = i
        else:
            break
    return values[at]


@compiled
def draw_token(logits: Any, temperature: float, top_k: int, draw: float) -> int:
    """As `s2s.nn.sampling.sample`, for one row: logits [V] are left changed."""
    size, best = len(logits), 0
    for i in range(1, size):
        if logits[i] > logits[best]:
            best = i
    if temperature <= 0:
        return best
    most, least = logits[best], np.float32(-np.inf)
    if 1 <= top_k < size:
        least = kth_largest(logits.copy(), top_k)
    inverse, total = np.float32(1 / max(temperature, 1e-4)), 0.0
    for i in range(size):
        logits[i] = exp((logits[i] - most) * inverse) if logits[i] >= least else np.float32(0)
        total += logits[i]
    reached, chosen = 0.0, 0
    while chosen < size - 1:
        reached += logits[chosen]
        if reached >= draw * total:
            break
        chosen += 1
    return chosen


@compiled
def run(
    hidden: Any,
    depth: Depth,
    heads: int,
    vocab: int,
    table_size: int,
    temperature: Any,
    top_k: Any,
    draws: Any,
    forced: Any,
) -> Any:
    """hidden [B, W], draws and forced [B, K], temperature and top_k [B] -> codes [B, K]."""
    rows, (count, width) = len(hidden), depth.place.shape
    layers, head_dim, epsilon = depth.layers, width // heads, depth.layers.epsilon
    num_layers = len(layers.attention_norm)
    per_step = len(layers.qkv.scales) // num_layers
    cache = np.empty((2, num_layers, rows, heads, head_dim, count), np.float32)
    x, normed, read = (
        np.empty((rows, width), np.float32),
        np.empty((rows, width), np.float32),
        np.empty((rows, width), np.float32),
    )
    code = np.empty((rows, depth.codes.shape[1]), np.float32)
    added = np.empty((rows, depth.from_code.scales.shape[1]), np.float32)
    qkv = np.empty((rows, layers.qkv.scales.shape[1]), np.float32)
    out = np.empty((rows, layers.out.scales.shape[1]), np.float32)
    told = np.empty((rows, depth.condition.scales.shape[1]), np.float32)
    product(hidden, depth.condition, ONLY, told)
    logits = np.empty((rows, depth.heads.scales.shape[1]), np.float32)
    codes = np.empty((rows, count), np.int64)
    for k in range(count):
        x[:] = told[:, :width] + depth.place[k]
        if k:
            for row in range(rows):
                code[row] = depth.codes[codes[row, k - 1] + (k - 1) * table_size]
            product(code, depth.from_code, min(k, len(depth.from_code.scales)) - 1, added)
            x += added[:, :width]
        for i in range(num_layers):
            matrix = i * per_step + min(k, per_step - 1)
            rms_norm(x, layers.attention_norm[i], epsilon, normed)
            product(normed, layers.qkv, matrix, qkv)
            for row in range(rows):
                for head in range(heads):
                    for e in range(head_dim):
                        cache[0, i, row, head, e, k] = qkv[row, width + head * head_dim + e]
                        cache[1, i, row, head, e, k] = qkv[row, 2 * width + head * head_dim + e]
                attend(qkv[row], cache[0, i, row], cache[1, i, row], k + 1, read[row])
            product(read, layers.out, matrix, out)
            x += out[:, :width]
            feed_forward(x, layers, i, matrix)
        rms_norm(x, depth.norm, epsilon, normed)
        product(normed, depth.heads, min(k, len(depth.heads.scales) - 1), logits)
        for row in range(rows):
            if forced[row, k] >= 0:
                codes[row, k] = forced[row, k]
            else:
                codes[row, k] = draw_token(logits[row, :vocab], temperature[row], top_k[row], draws[row, k])
    return codes
