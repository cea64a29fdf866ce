"""The talker and the plan of a reply for one new step of B rows, a kernel each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from s2s.kernels import transformer
from s2s.kernels.functions import gelu, rms_norm
from s2s.kernels.products import ONLY, Matrices, compiled, product

_layers = transformer.run


class Talker(NamedTuple):
    """The weights. texts [V, D]: embeddings of words; codes: of the codes of all codebooks, `size` of each, which `mix`
    makes one vector of; words and sound: from either width to the talker's; norm: of the end."""

    texts: Any
    codes: Any
    size: int
    mix: Matrices
    words: Matrices
    sound: Matrices
    layers: transformer.Layers
    norm: Any


class Plan(NamedTuple):
    """The weights: `inputs` of what the reply began with and of its last token; place [N, D]."""

    inputs: Matrices
    place: Any
    out: Matrices


@compiled
def talk(text: Any, codes: Any, position: Any, keys: Any, values: Any, talker: Talker, base: float) -> Any:
    """text [B] of this step and codes [B, K] of the one before -> [B, W]; the others as in `transformer.run`."""
    rows, levels = codes.shape
    width, inner = talker.texts.shape[1], talker.codes.shape[1]
    words, beside = np.empty((rows, width), np.float32), np.empty((rows, levels * inner), np.float32)
    for row in range(rows):
        words[row] = talker.texts[text[row]]
        for level in range(levels):
            beside[row, level * inner : (level + 1) * inner] = talker.codes[codes[row, level] + level * talker.size]
    mixed = np.empty((rows, talker.mix.scales.shape[1]), np.float32)
    product(beside, talker.mix, ONLY, mixed)
    sums = np.empty((2, rows, talker.words.scales.shape[1]), np.float32)
    product(words, talker.words, ONLY, sums[0])
    product(mixed, talker.sound, ONLY, sums[1])
    x = (sums[0] + sums[1])[:, : talker.layers.attention_norm.shape[1]].copy()
    _layers(x, position, keys, values, talker.layers, np.int64(0), keys.shape[1], base)
    out = np.empty_like(x)
    rms_norm(x, talker.norm, talker.layers.epsilon, out)
    return out


@compiled
def ask(hidden: Any, said: Any, last: Any, plan: Plan) -> Any:
    """As `s2s.models.plan.Plan`: hidden [B, D], `said` [B] tokens, the last one embedded [B, D] -> [B, D]."""
    rows, width = hidden.shape
    sums = np.empty((3, rows, plan.out.scales.shape[1]), np.float32)
    for which in range(2):
        product(last if which else hidden, plan.inputs, which, sums[which])
    x = (sums[0] + sums[1])[:, :width].copy()
    for row in range(rows):
        x[row] += plan.place[said[row]]
    gelu(x)
    product(x, plan.out, ONLY, sums[2])
    return hidden + sums[2][:, :width]
