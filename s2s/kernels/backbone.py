"""The backbone for one new step of B rows, from the tokens that it reads to what it thinks, as one kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from s2s.kernels import transformer
from s2s.kernels.functions import rms_norm, softmax
from s2s.kernels.products import ONLY, Matrices, compiled, product

_layers = transformer.run


class Table(NamedTuple):
    """Embeddings of the tokens of a stream, whose `rows` in the grid begin with `first`: `size` of them for each.

    unread: START, the id behind a vocabulary of size `vocab`, is told from all others and these count as PAD; where a
    single row is unread, the two are all that the table has.
    """

    first: int
    rows: int
    vocab: int
    unread: bool
    size: int
    values: Any


class Spelled(NamedTuple):
    """What is heard between two layers; `classes` of the outputs of its head are some, 0: nothing is heard."""

    norm: Any
    epsilon: float
    head: Matrices
    classes: int
    back: Matrices


class Backbone(NamedTuple):
    """The weights. tables: of all streams; mixes: what makes one vector of the rows of each stream of several.

    spelled: behind the first bounds[1] and bounds[2] of the layers; bounds begin with 0 and end with the number of all;
    norm: of the end.
    """

    tables: tuple[Table, ...]
    mixes: tuple[Matrices, ...]
    layers: transformer.Layers
    spelled: tuple[Spelled, Spelled]
    bounds: Any
    norm: Any


@compiled
def _entry(table: Table, token: int, row: int) -> int:
    """Where in a table's values the embedding of a token in one of its rows lies."""
    if table.unread:
        token = table.vocab if token == table.vocab else table.vocab + 1
        if table.rows == 1:
            token -= table.vocab
    return token + row * table.size


@compiled
def _read(ids: Any, backbone: Backbone, x: Any) -> None:
    """x [B, D] = what the tokens ids [B, R] are embedded as."""
    x[:] = 0
    several = 0
    for table in backbone.tables:
        width = table.values.shape[1]
        beside = np.empty((len(x), table.rows * width), np.float32)
        for b in range(len(x)):
            for row in range(table.rows):
                at = _entry(table, ids[b, table.first + row], row)
                beside[b, row * width : (row + 1) * width] = table.values[at]
        if table.rows > 1:
            mix = backbone.mixes[several]
            mixed = np.empty((len(x), mix.scales.shape[1]), np.float32)
            product(beside, mix, ONLY, mixed)
            x += mixed[:, : x.shape[1]]
            several += 1
        else:
            x += beside


@compiled
def spell(x: Any, spelled: Spelled) -> None:
    """x [B, D] with what is heard in it added, as `s2s.models.spelling.Spelling` does."""
    rows, width = x.shape
    normed = np.empty((rows, width), np.float32)
    heard = np.empty((rows, spelled.head.scales.shape[1]), np.float32)
    back = np.empty((rows, spelled.back.scales.shape[1]), np.float32)
    rms_norm(x, spelled.norm, spelled.epsilon, normed)
    product(normed, spelled.head, ONLY, heard)
    for b in range(rows):
        softmax(heard[b], spelled.classes, 1.0)
    product(heard, spelled.back, ONLY, back)  # behind the classes there are zeros
    for b in range(rows):
        total = np.float32(0)
        for i in range(width):
            total += x[b, i] * x[b, i]
        loudness = np.sqrt(total / np.float32(width))
        for i in range(width):
            x[b, i] += loudness * back[b, i]


@compiled
def run(ids: Any, position: Any, keys: Any, values: Any, backbone: Backbone, base: float) -> Any:
    """ids [B, R] -> hidden [B, D]; the others as in `transformer.run`."""
    layers = backbone.layers
    x = np.empty((len(ids), layers.attention_norm.shape[1]), np.float32)
    _read(ids, backbone, x)
    for part in range(3):
        _layers(x, position, keys, values, layers, backbone.bounds[part], backbone.bounds[part + 1], base)
        if part < 2 and backbone.spelled[part].classes:
            spell(x, backbone.spelled[part])
    out = np.empty_like(x)
    rms_norm(x, backbone.norm, layers.epsilon, out)
    return out
