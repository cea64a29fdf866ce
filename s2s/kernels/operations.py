"""The kernels as operations of torch, so that a graph can call them on tensors.

Their weights are no inputs: a graph names them by a number, which costs less than a dozen tensors per call.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2s.kernels import ahead, backbone, convnext, depth, quantizer, ring, spectral, talker
from s2s.kernels.products import ONLY, Matrices, product

_KEPT: dict[int, Any] = {}
_NUMBERS = itertools.count()


class Kept:
    """Weights that a graph names by a number, for as long as somebody holds this; they never change again."""

    def __init__(self, weights: tuple[Any, ...]):
        self.number = next(_NUMBERS)
        _KEPT[self.number] = weights
        weakref.finalize(self, _KEPT.pop, self.number)

    @property
    def weights(self) -> Any:
        return _KEPT[self.number]

    def __deepcopy__(self, memo: object) -> Kept:
        return self


def _array(x: Tensor) -> Any:
    return (x.detach() if x.requires_grad else x).contiguous().numpy()


def _search(x: Tensor, number: int) -> Tensor:
    return torch.from_numpy(quantizer.search(_array(x), *_KEPT[number]))


def _embed(codes: Tensor, codebooks: Tensor) -> Tensor:
    return torch.from_numpy(quantizer.embed(_array(codes), codebooks.numpy()))


def _ring(tokens: Tensor, first: list[int], ids: list[Tensor], slots: Tensor, start: Tensor) -> Tensor:
    stored = tokens.numpy()
    for row, taken in zip(first, ids, strict=True):
        ring.take_in(stored, row, _array(taken))
    return torch.from_numpy(ring.at(stored, slots.numpy(), start.numpy()))


def _linear(x: Tensor, size: int, number: int) -> Tensor:
    matrices: Matrices = _KEPT[number]
    out = np.empty((len(x), matrices.scales.shape[1]), np.float32)
    product(_array(x), matrices, ONLY, out)
    return torch.from_numpy(out[:, :size])


def _think(ids: Tensor, position: Tensor, keys: Tensor, values: Tensor, base: float, number: int) -> Tensor:
    caches = keys.numpy(), values.numpy()
    return torch.from_numpy(backbone.run(_array(ids), position.numpy(), *caches, _KEPT[number], base))


def _talk(
    hidden: Tensor, text: Tensor, codes: Tensor, position: Tensor, keys: Tensor, values: Tensor, stopped: Tensor,
    out: Tensor, rest: Tensor, base: float, number: int,
) -> Tensor:  # fmt: skip
    given = (_array(tensor) for tensor in (hidden, text, codes))
    state = (tensor.numpy() for tensor in (position, keys, values, stopped, out, rest))
    return torch.from_numpy(talker.run(*given, *state, _KEPT[number], base))


def _ask(hidden: Tensor, said: Tensor, last: Tensor, number: int) -> Tensor:
    return torch.from_numpy(ahead.ask(_array(hidden), _array(said), _array(last), _KEPT[number]))


def _decide(hidden: Tensor, logits: Tensor, *rest: Any) -> Tensor:
    *state, number = rest
    arrays = (tensor.numpy() for tensor in state)
    return torch.from_numpy(ahead.decide(_array(hidden), _array(logits), *arrays, _KEPT[number]))


def _follow(ids: Tensor, hidden: Tensor, *rest: Any) -> None:
    *state, number = rest
    ahead.follow(_array(ids), _array(hidden), *(tensor.numpy() for tensor in state), _KEPT[number])


def _depth(
    hidden: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    draws: Tensor,
    forced: Tensor,
    heads: int,
    vocab: int,
    table_size: int,
    number: int,
) -> Tensor:
    tensors = (temperature, top_k, draws, forced)
    arrays = (_array(tensor) for tensor in tensors)
    return torch.from_numpy(depth.run(_array(hidden), _KEPT[number], heads, vocab, table_size, *arrays))


def _blocks(x: Tensor, contexts: Tensor, number: int) -> Tensor:
    out = x.detach().clone(memory_format=torch.contiguous_format)
    convnext.run(out.numpy(), contexts.numpy(), _KEPT[number])
    return out


def _encode(spectrum: Tensor, hops: Tensor, down: Tensor, frames: Tensor, number: int) -> Tensor:
    contexts = hops.numpy(), down.numpy(), frames.numpy()
    return torch.from_numpy(spectral.encode(_array(spectrum), *contexts, _KEPT[number]))


def _decode(vectors: Tensor, frames: Tensor, hops: Tensor, number: int) -> Tensor:
    return torch.from_numpy(spectral.decode(_array(vectors), frames.numpy(), hops.numpy(), _KEPT[number]))


def _windows(wav: Tensor, before: Tensor, shape: Tensor, hop: int) -> Tensor:
    return torch.from_numpy(spectral.windows(_array(wav), before.numpy(), shape.numpy(), hop))


def _overlap(windows: Tensor, shape: Tensor, tail: Tensor) -> Tensor:
    return torch.from_numpy(spectral.overlap(_array(windows), shape.numpy(), tail.numpy()))


_LIBRARY = torch.library.Library("s2s", "DEF")
for _schema, _function in {
    "search(Tensor x, int number) -> Tensor": _search,
    "linear(Tensor x, int size, int number) -> Tensor": _linear,
    "think(Tensor ids, Tensor position, Tensor(a!) keys, Tensor(b!) values, float base, int number) -> Tensor": _think,
    "talk(Tensor hidden, Tensor text, Tensor codes, Tensor position, Tensor(a!) keys, Tensor(b!) values,"
    " Tensor(c!) stopped, Tensor(d!) out, Tensor(e!) rest, float base, int number) -> Tensor": _talk,
    "ask(Tensor hidden, Tensor said, Tensor last, int number) -> Tensor": _ask,
    "decide(Tensor hidden, Tensor logits, Tensor(a!) kept, Tensor left, Tensor(b!) doubt, Tensor begun, Tensor said,"
    " Tensor last, Tensor idle, Tensor stopped, Tensor out, Tensor(c!) waited, Tensor rest, int number)"
    " -> Tensor": _decide,
    "follow(Tensor ids, Tensor hidden, Tensor(a!) left, Tensor(b!) doubt, Tensor(c!) begun, Tensor(d!) said,"
    " Tensor(e!) last, Tensor(f!) idle, int number) -> ()": _follow,
    "ring(Tensor(a!) tokens, int[] first, Tensor[] ids, Tensor slots, Tensor start) -> Tensor": _ring,
    "embed(Tensor codes, Tensor codebooks) -> Tensor": _embed,
    "windows(Tensor wav, Tensor(a!) before, Tensor shape, int hop) -> Tensor": _windows,
    "depth(Tensor hidden, Tensor temperature, Tensor top_k, Tensor draws, Tensor forced, int heads, int vocab,"
    " int table_size, int number) -> Tensor": _depth,
    "encode(Tensor spectrum, Tensor(a!) hops, Tensor(b!) down, Tensor(c!) frames, int number) -> Tensor": _encode,
    "decode(Tensor vectors, Tensor(a!) frames, Tensor(b!) hops, int number) -> Tensor": _decode,
    "overlap(Tensor windows, Tensor shape, Tensor(a!) tail) -> Tensor": _overlap,
    "blocks(Tensor x, Tensor(a!) contexts, int number) -> Tensor": _blocks,
}.items():
    _LIBRARY.define(_schema)
    _LIBRARY.impl(_schema[: _schema.index("(")], _function, "CPU")
