"""Modules of the live step on 8-bit weights whose work is done by compiled kernels: one call each instead of hundreds.

They give every row the same bits alone and beside any others. Importing this takes numba.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s2s.codec.rvq import ResidualVectorQuantizer, embed
from s2s.kernels import backbone, convnext, depth, transformer
from s2s.kernels.operations import Kept
from s2s.kernels.products import Matrices, pack
from s2s.models.depth import DepthLayer, DepthTransformer, SteppedLinear
from s2s.models.duplex import AudioEmbedding, DuplexModel
from s2s.models.spelling import Spelling
from s2s.nn.attention import KVCache
from s2s.nn.conv import CausalConv1d, ConvNeXtBlock, ConvNeXtBlocks, ConvState
from s2s.nn.packed import Kernels
from s2s.nn.sampling import Controls
from s2s.nn.transformer import Transformer, TransformerLayer, TransformerState


class CompiledLinear(nn.Module):
    """An `nn.Linear`; `weight` is empty and only tells the dtype and device of states."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.out_features = len(weight)
        self.kept = Kept(pack(_numpy(weight)[None], None if bias is None else _numpy(bias)[None]))
        self.register_buffer("weight", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.s2s.linear(x.reshape(-1, x.shape[-1]), self.out_features, self.kept.number)
        return y.view(*x.shape[:-1], self.out_features)


class CompiledTransformer(nn.Module):
    """A `Transformer` one step at a time."""

    def __init__(self, exact: Transformer):
        super().__init__()
        c = self.config = exact.config
        layers = [layer for layer in exact.layers if isinstance(layer, TransformerLayer)]
        weights = transformer.Layers(
            _stack(layer.attention_norm.weight for layer in layers),
            pack(_stack(layer.attention.qkv.weight for layer in layers)),
            pack(_stack(layer.attention.out.weight for layer in layers)),
            _stack(layer.mlp_norm.weight for layer in layers),
            pack(_stack(layer.mlp.gate_up.weight for layer in layers)),
            pack(_stack(layer.mlp.down.weight for layer in layers)),
            c.hidden,
            exact.norm.eps,
        )
        self.kept, self.norm = Kept(weights), exact.norm

    def init_state(self, rows: int) -> TransformerState:
        c = self.config
        shape = (rows, c.num_kv_heads, c.width // c.num_heads, c.window)  # one feature of all slots after the other
        layers = [KVCache(torch.zeros(shape), torch.zeros(shape)) for _ in range(c.num_layers)]
        return TransformerState(torch.zeros(rows, dtype=torch.long), layers)

    def forward(self, x: Tensor, state: TransformerState) -> Tensor:
        """x [B, 1, D] -> [B, 1, D]."""
        x = torch.ops.s2s.layers(x[:, 0], *_caches(state), self.config.rope_base, self.kept.number)[:, None]
        state.position += 1
        y: Tensor = self.norm(x)
        return y


class CompiledBackbone(nn.Module):
    """What a `DuplexModel` of compiled modules reads and thinks in one step."""

    def __init__(self, model: DuplexModel):
        super().__init__()
        c, transformer_ = model.config, model.backbone
        assert isinstance(transformer_, CompiledTransformer)
        tables, mixes = [], []
        for stream in model.layout.streams:
            embedding, first = model.embeddings[stream.name], model.layout.rows(stream.name).start
            if isinstance(embedding, AudioEmbedding):
                mixes.append(_weights(embedding.out))
                embedding = embedding.codes
            values, unread = _numpy(embedding.weight), stream.name in c.unread
            tables.append(backbone.Table(first, stream.num_rows, stream.vocab_size, unread, stream.table_size, values))
        spelled = (_spelled(model.spelling, c.spelling_layer), _spelled(model.wording, c.wording_layer))
        layers: transformer.Layers = transformer_.kept.weights
        self.kept = Kept(
            backbone.Backbone(
                tuple(tables),
                tuple(mixes),
                layers,
                tuple(sorted(spelled, key=lambda each: each.after)),
                _numpy(transformer_.norm.weight),
            )
        )
        self.base = c.backbone.rope_base

    def forward(self, grid: Tensor, state: TransformerState) -> Tensor:
        """grid [B, R, 1] -> hidden [B, 1, D]."""
        hidden: Tensor = torch.ops.s2s.think(grid[..., 0], *_caches(state), self.base, self.kept.number)
        state.position += 1
        return hidden[:, None]


def _spelled(spelling: Spelling | None, after: int) -> backbone.Spelled:
    if spelling is None:
        none = pack(np.zeros((1, 1, 1), np.float32))
        return backbone.Spelled(0, np.zeros(1, np.float32), 0.0, none, 0, none)
    classes, norm = spelling.head.out_features, spelling.norm
    return backbone.Spelled(
        after, _numpy(norm.weight), norm.eps, _weights(spelling.head), classes, _weights(spelling.back)
    )


def _weights(linear: nn.Module) -> Matrices:
    assert isinstance(linear, CompiledLinear)
    matrices: Matrices = linear.kept.weights
    return matrices


def _caches(state: TransformerState) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return state.position, [cache.keys for cache in state.layers], [cache.values for cache in state.layers]


class CompiledDepth(nn.Module):
    """A `DepthTransformer` that samples."""

    def __init__(self, exact: DepthTransformer):
        super().__init__()
        self.num_codebooks, self.table_size, self.heads = exact.num_codebooks, exact.table_size, exact.config.num_heads
        layers = [layer for layer in exact.layers if isinstance(layer, DepthLayer)]
        weights = depth.Depth(
            _numpy(exact.codes.weight),
            pack(_numpy(exact.from_code.weight)),
            transformer.Layers(
                _stack(layer.attention_norm.weight for layer in layers),
                _stepped(layer.qkv for layer in layers),
                _stepped(layer.out for layer in layers),
                _stack(layer.mlp_norm.weight for layer in layers),
                _stepped(layer.gate_up for layer in layers),
                _stepped(layer.down for layer in layers),
                exact.config.hidden,
                exact.norm.eps,
            ),
            _numpy(exact.norm.weight),
            pack(_numpy(exact.heads.weight)),
        )
        self.kept, self.vocab = Kept(weights), exact.heads.weight.shape[1]
        self.condition = CompiledLinear(exact.condition.weight)
        self.register_buffer("place", exact.place.detach().clone(), persistent=False)

    def sample(self, hidden: Tensor, controls: Controls | None, draws: Tensor, forced: Tensor | None = None) -> Tensor:
        """As `DepthTransformer.sample`."""
        inputs = self.condition(hidden)[:, None] + self.place
        if controls is None:
            temperature, top_k = hidden.new_zeros(len(hidden)), draws.new_zeros(len(hidden), dtype=torch.long)
        else:
            temperature, top_k = controls.temperature, controls.top_k
        if forced is None:
            forced = torch.full(draws.shape, -1)
        numbers = (self.heads, self.vocab, self.table_size, self.kept.number)
        codes: Tensor = torch.ops.s2s.depth(inputs, temperature, top_k, draws.double(), forced, *numbers)
        return codes


class CompiledBlocks(nn.Module):
    """`ConvNeXtBlocks` on a few steps at a time."""

    def __init__(self, exact: ConvNeXtBlocks):
        super().__init__()
        blocks = [block for block in exact if isinstance(block, ConvNeXtBlock)]
        convs, scales = [block.depthwise.conv for block in blocks], _stack(block.scale for block in blocks)
        weights = convnext.Blocks(
            _stack(conv.weight[:, 0].T for conv in convs),
            _stack(conv.bias for conv in convs),
            _stack(block.norm.weight for block in blocks),
            _stack(block.norm.bias for block in blocks),
            blocks[0].norm.eps,
            pack(_stack(block.expand.weight for block in blocks), _stack(block.expand.bias for block in blocks)),
            # Scaled rows are rounded to the same 8 bits.
            pack(
                _stack(block.contract.weight for block in blocks) * scales[..., None],
                _stack(block.contract.bias for block in blocks) * scales,
            ),
        )
        self.kept, self.context = Kept(weights), (blocks[0].depthwise.left, len(blocks[0].depthwise.conv.weight))
        self.depth = len(blocks)

    def init_state(self, rows: int) -> list[ConvState]:
        return [ConvState(torch.zeros(rows, *self.context)) for _ in range(self.depth)]

    def forward(self, x: Tensor, state: list[ConvState]) -> Tensor:
        y: Tensor = torch.ops.s2s.blocks(x, [block.context for block in state], self.kept.number)
        return y


class CompiledQuantizer(nn.Module):
    """A `ResidualVectorQuantizer` whose codebooks no longer change."""

    codebooks: Tensor

    def __init__(self, exact: ResidualVectorQuantizer):
        super().__init__()
        self.register_buffer("codebooks", exact.codebooks.float().clone(), persistent=False)
        entries = _numpy(self.codebooks)
        half_norms = 0.5 * (entries**2).sum(axis=2)
        self.kept = Kept((np.ascontiguousarray(entries.transpose(0, 2, 1)), half_norms))

    def encode(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> codes [B, K, T]."""
        codes: Tensor = torch.ops.s2s.search(x.flatten(0, 1), self.kept.number)
        return codes.view(*x.shape[:2], -1).transpose(1, 2)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, K, T] -> vectors [B, T, D]."""
        return embed(codes, self.codebooks)


def _dense(conv: CausalConv1d) -> CausalConv1d:
    module = conv.for_live(int8=False)
    if conv.conv.groups == 1:
        module.product = CompiledLinear(conv.conv.weight.flatten(1), conv.conv.bias)
    return module


COMPILED: Kernels = {
    nn.Linear: lambda linear: CompiledLinear(linear.weight, linear.bias),
    CausalConv1d: _dense,
    ConvNeXtBlocks: lambda blocks: CompiledBlocks(blocks) if len(blocks) else blocks,
    ResidualVectorQuantizer: CompiledQuantizer,
    Transformer: CompiledTransformer,
    DepthTransformer: CompiledDepth,
}
"""What becomes of modules of these types in a live step."""


def _numpy(tensor: Tensor | None) -> NDArray[np.float32]:
    assert tensor is not None
    return np.ascontiguousarray(tensor.detach().float().numpy())


def _stack(tensors: Iterable[Tensor | None]) -> NDArray[np.float32]:
    return np.stack([_numpy(tensor) for tensor in tensors])


def _stepped(maps: Iterable[SteppedLinear]) -> Matrices:
    """The matrices of all layers, layer by layer."""
    return pack(np.concatenate([_numpy(linear.weight) for linear in maps]))
