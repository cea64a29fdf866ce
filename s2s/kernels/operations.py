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

from s2s.kernels import backbone, convnext, depth, quantizer, transformer
from s2s.kernels.products import Matrices, product

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


def _linear(x: Tensor, size: int, number: int) -> Tensor:
    matrices: Matrices = _KEPT[number]
    out = np.empty((len(x), matrices.scales.shape[1]), np.float32)
    product(_array(x), matrices, 0, out)
    return torch.from_numpy(out[:, :size])


def _layers(
    x: Tensor, position: Tensor, keys: list[Tensor], values: list[Tensor], base: float, number: int
) -> Tensor:
    out = x.detach().clone(memory_format=torch.contiguous_format)
    caches = (tuple(key.numpy() for key in keys), tuple(value.numpy() for value in values))
    transformer.run(out.numpy(), position.numpy(), *caches, _KEPT[number], 0, len(keys), base)
    return out


def _think(
    ids: Tensor, position: Tensor, keys: list[Tensor], values: list[Tensor], base: float, number: int
) -> Tensor:
    caches = (tuple(key.numpy() for key in keys), tuple(value.numpy() for value in values))
    return torch.from_numpy(backbone.run(_array(ids), position.numpy(), *caches, _KEPT[number], base))


def _depth(
    inputs: Tensor,
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
    return torch.from_numpy(depth.run(_array(inputs), _KEPT[number], heads, vocab, table_size, *arrays))


def _blocks(x: Tensor, contexts: list[Tensor], number: int) -> Tensor:
    out = x.detach().clone(memory_format=torch.contiguous_format)
    convnext.run(out.numpy(), tuple(context.numpy() for context in contexts), _KEPT[number])
    return out


_LIBRARY = torch.library.Library("s2s", "DEF")
for _schema, _function in {
    "search(Tensor x, int number) -> Tensor": _search,
    "linear(Tensor x, int size, int number) -> Tensor": _linear,
    "layers(Tensor x, Tensor position, Tensor(a!)[] keys, Tensor(b!)[] values, float base, int number)"
    " -> Tensor": _layers,
    "think(Tensor ids, Tensor position, Tensor(a!)[] keys, Tensor(b!)[] values, float base, int number)"
    " -> Tensor": _think,
    "depth(Tensor inputs, Tensor temperature, Tensor top_k, Tensor draws, Tensor forced, int heads, int vocab,"
    " int table_size, int number) -> Tensor": _depth,
    "blocks(Tensor x, Tensor(a!)[] contexts, int number) -> Tensor": _blocks,
}.items():
    _LIBRARY.define(_schema)
    _LIBRARY.impl(_schema[: _schema.index("(")], _function, "CPU")
