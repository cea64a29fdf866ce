"""Layers of a causal transformer for one new step of B rows, as one kernel."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from s2s.kernels.functions import gate, rms_norm, softmax
from s2s.kernels.products import Matrices, compiled, product


class Layers(NamedTuple):
    """The layers' weights: norms [N, D] and their epsilon, matrices as packed; `hidden`: inner width of MLPs."""

    attention_norm: Any
    qkv: Matrices
    out: Matrices
    mlp_norm: Any
    gate_up: Matrices
    down: Matrices
    hidden: int
    epsilon: float


@compiled
def attend(queries: Any, keys: Any, values: Any, count: int, out: Any) -> None:
    """out [H * E] = what queries [H * E] read from the first `count` slots of keys and values [G, E, W]."""
    groups, head_dim, _ = keys.shape
    heads = len(out) // head_dim
    scores = np.empty(count, np.float32)
    for head in range(heads):
        group, at = head * groups // heads, head * head_dim
        scores[:] = 0
        for e in range(head_dim):
            query = queries[at + e]
            for slot in range(count):
                scores[slot] += query * keys[group, e, slot]
        softmax(scores, count, head_dim**-0.5)
        for e in range(head_dim):
            total = np.float32(0)
            for slot in range(count):
                total += scores[slot] * values[group, e, slot]
            out[at + e] = total


@compiled
def feed_forward(x: Any, layers: Layers, layer: int, matrix: int) -> None:
    """x [B, D] plus its gated MLP with the matrices of number `matrix`, in place."""
    rows, width = x.shape
    hidden = layers.hidden
    normed, gated = np.empty((rows, width), np.float32), np.empty((rows, hidden), np.float32)
    both = np.empty((rows, layers.gate_up.scales.shape[1]), np.float32)
    out = np.empty((rows, layers.down.scales.shape[1]), np.float32)
    rms_norm(x, layers.mlp_norm[layer], layers.epsilon, normed)
    product(normed, layers.gate_up, matrix, both)
    gate(both, gated)
    product(gated, layers.down, matrix, out)
    x += out[:, :width]


@compiled
def run(x: Any, position: Any, keys: Any, values: Any, layers: Layers, first: int, end: int, base: float) -> None:
    """x [B, D] goes through the layers from number `first` to before `end`, in place.

    Args:
        position: steps seen so far [B].
        keys, values: ring caches [B, N, G, E, W]; position p lies in slot p mod W.
    """
    rows, width = x.shape
    _, _, groups, head_dim, window = keys.shape
    half = head_dim // 2
    cos, sin = np.empty((rows, half), np.float32), np.empty((rows, half), np.float32)
    for row in range(rows):
        for e in range(half):
            angle = position[row] * base ** (-2 * e / head_dim)
            cos[row, e], sin[row, e] = math.cos(angle), math.sin(angle)
    normed, read = np.empty((rows, width), np.float32), np.empty((rows, width), np.float32)
    qkv = np.empty((rows, layers.qkv.scales.shape[1]), np.float32)
    out = np.empty((rows, layers.out.scales.shape[1]), np.float32)
    for layer in range(first, end):
        rms_norm(x, layers.attention_norm[layer], layers.epsilon, normed)
        product(normed, layers.qkv, layer, qkv)
        for row in range(rows):
            for at in range(0, width + groups * head_dim, head_dim):
                for e in range(half):
                    a, b = qkv[row, at + e], qkv[row, at + half + e]
                    qkv[row, at + e] = a * cos[row, e] - b * sin[row, e]
                    qkv[row, at + half + e] = b * cos[row, e] + a * sin[row, e]
            slot = position[row] % window
            for group in range(groups):
                at = width + group * head_dim
                keys[row, layer, group, :, slot] = qkv[row, at : at + head_dim]
                at += groups * head_dim
                values[row, layer, group, :, slot] = qkv[row, at : at + head_dim]
            attend(qkv[row], keys[row, layer], values[row, layer], min(position[row] + 1, window), read[row])
        product(read, layers.out, layer, out)
        x += out[:, :width]
        feed_forward(x, layers, layer, layer)
