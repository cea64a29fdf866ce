"""The talker for one new step of B rows: what the agent's sound is made from, as one kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from s2s.kernels import transformer
from s2s.kernels.functions import rms_norm
from s2s.kernels.products import ONLY, Matrices, compiled, product

_layers = transformer.run


class Talker(NamedTuple):
    """The weights. texts [V, D]: embeddings of words; codes: of the codes of all codebooks, `size` of each, which `mix`
    makes one vector of; words and sound: from either width to the talker's; norm: of the end.

    stop: tells of what is thought whether to break off, from `stop_logit` on; tokens below `vocab` say something. out:
    how far a token is out, and shortest: the steps that each takes at least, none where no time is kept.
    """

    texts: Any
    codes: Any
    size: int
    mix: Matrices
    words: Matrices
    sound: Matrices
    layers: transformer.Layers
    norm: Any
    stop: Matrices
    stop_logit: float
    vocab: int
    out: Matrices
    shortest: Any


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
def run(
    hidden: Any, text: Any, codes: Any, position: Any, keys: Any, values: Any, stopped: Any, out: Any, rest: Any,
    talker: Talker, base: float,
) -> Any:  # fmt: skip
    """As `s2s.models.duplex.DuplexModel.voice`: hidden [B, D] -> [B, W]; stopped, out and rest [B] are updated."""
    rows, keeps_time = len(text), len(talker.shortest) > 0
    one = np.empty((rows, talker.stop.scales.shape[1]), np.float32)
    product(hidden, talker.stop, ONLY, one)
    for row in range(rows):
        stopped[row] = (stopped[row] or one[row, 0] > talker.stop_logit) and text[row] >= talker.vocab
    voice = talk(text, codes, position, keys, values, talker, base)
    if keeps_time:
        product(voice, talker.out, ONLY, one)
        for row in range(rows):
            out[row] = one[row, 0]
            left = talker.shortest[text[row]] if text[row] < talker.vocab else rest[row]
            rest[row] = max(left - np.float32(1), np.float32(0))
    return voice
