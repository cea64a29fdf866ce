"""Modules of the live step on 8-bit weights whose work is done by compiled kernels: one call each instead of hundreds.

They give every row the same bits alone and beside any others. Importing this takes numba.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s2s.kernels import convnext, transformer
from s2s.kernels.operations import Kept
from s2s.kernels.products import Matrices, pack
from s2s.nn.attention import KVCache
from s2s.nn.conv import CausalConv1d, ConvNeXtBlock, ConvNeXtBlocks, ConvState
from s2s.nn.transformer import Transformer, TransformerLayer, TransformerState


class CompiledLinear(nn.Module):
    """An `nn.Linear`; `weight` is empty and only tells the dtype and device of states."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.out_features = len(weight)
        self.kept = Kept(pack(numpy_of(weight)[None], None if bias is None else numpy_of(bias)[None]))
        self.register_buffer("weight", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.s2s.linear(x.reshape(-1, x.shape[-1]), self.out_features, self.kept.number)
        return y.view(*x.shape[:-1], self.out_features)


class CompiledTransformer(nn.Module):
    """The weights of a `Transformer` for kernels that take it one step further, and what it remembers."""

    def __init__(self, exact: Transformer):
        super().__init__()
        c = self.config = exact.config
        layers = [layer for layer in exact.layers if isinstance(layer, TransformerLayer)]
        weights = transformer.Layers(
            stacked(layer.attention_norm.weight for layer in layers),
            pack(stacked(layer.attention.qkv.weight for layer in layers)),
            pack(stacked(layer.attention.out.weight for layer in layers)),
            stacked(layer.mlp_norm.weight for layer in layers),
            pack(stacked(layer.mlp.gate_up.weight for layer in layers)),
            pack(stacked(layer.mlp.down.weight for layer in layers)),
            c.hidden,
            exact.norm.eps,
        )
        self.kept, self.norm = Kept(weights), exact.norm

    def init_state(self, rows: int) -> TransformerState:
        c = self.config
        # All layers in one, which takes less to hand over, and a feature of all slots at a time, as they are read.
        shape = (rows, c.num_layers, c.num_kv_heads, c.width // c.num_heads, c.window)
        cache = KVCache(torch.zeros(shape), torch.zeros(shape))
        return TransformerState(torch.zeros(rows, dtype=torch.long), [cache])


class CompiledBlocks(nn.Module):
    """`ConvNeXtBlocks` on a few steps at a time."""

    def __init__(self, exact: ConvNeXtBlocks):
        super().__init__()
        blocks = [block for block in exact if isinstance(block, ConvNeXtBlock)]
        convs, scales = [block.depthwise.conv for block in blocks], stacked(block.scale for block in blocks)
        weights = convnext.Blocks(
            stacked(conv.weight[:, 0].T for conv in convs),
            stacked(conv.bias for conv in convs),
            stacked(block.norm.weight for block in blocks),
            stacked(block.norm.bias for block in blocks),
            blocks[0].norm.eps,
            pack(stacked(block.expand.weight for block in blocks), stacked(block.expand.bias for block in blocks)),
            # Scaled rows are rounded to the same 8 bits.
            pack(
                stacked(block.contract.weight for block in blocks) * scales[..., None],
                stacked(block.contract.bias for block in blocks) * scales,
            ),
        )
        self.kept, self.context = Kept(weights), (blocks[0].depthwise.left, len(blocks[0].depthwise.conv.weight))
        self.depth = len(blocks)

    def init_state(self, rows: int) -> list[ConvState]:
        return [ConvState(torch.zeros(rows, self.depth, *self.context))]  # of all blocks in one

    def forward(self, x: Tensor, state: list[ConvState]) -> Tensor:
        y: Tensor = torch.ops.s2s.blocks(x, state[0].context, self.kept.number)
        return y


def compiled_conv(conv: CausalConv1d) -> CausalConv1d:
    """The same convolution for a live step; a dense one has its product in 8 bits."""
    module = conv.for_live(int8=False)
    if conv.conv.groups == 1:
        module.product = CompiledLinear(conv.conv.weight.flatten(1), conv.conv.bias)
    return module


def packed(linear: nn.Linear) -> Matrices:
    """A linear map [O, I], with or without a bias, as a single matrix for `product`."""
    return pack(numpy_of(linear.weight)[None], None if linear.bias is None else numpy_of(linear.bias)[None])


def weights_of(linear: nn.Module) -> Matrices:
    """What a `CompiledLinear` has packed already, for a larger kernel to use as well."""
    assert isinstance(linear, CompiledLinear)
    matrices: Matrices = linear.kept.weights
    return matrices


def caches_of(state: TransformerState) -> tuple[Tensor, Tensor, Tensor]:
    """Position [B], keys and values [B, N, G, E, W] of a `CompiledTransformer`'s state."""
    return state.position, state.layers[0].keys, state.layers[0].values


def numpy_of(tensor: Tensor | None) -> NDArray[np.float32]:
    """Weights on the CPU as float32, without a copy where they are."""
    assert tensor is not None
    return np.ascontiguousarray(tensor.detach().float().numpy())


def stacked(tensors: Iterable[Tensor | None]) -> NDArray[np.float32]:
    """Weights of the same shape from N layers [N, ...]."""
    return np.stack([numpy_of(tensor) for tensor in tensors])
