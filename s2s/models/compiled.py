"""Modules of the live step on 8-bit weights whose work is done by compiled kernels: one call each instead of hundreds.

They give every row the same bits alone and beside any others. Importing this takes numba.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s2s.codec.rvq import ResidualVectorQuantizer, embed
from s2s.codec.spectral import (
    DecoderState,
    EncoderState,
    SpectralDecoder,
    SpectralEncoder,
    spectrum_of,
    windows_of,
)
from s2s.kernels import backbone, convnext, depth, spectral, talker, transformer
from s2s.kernels.operations import Kept
from s2s.kernels.products import Matrices, pack
from s2s.models.depth import DepthLayer, DepthTransformer, SteppedLinear
from s2s.models.duplex import AudioEmbedding, DuplexModel
from s2s.models.plan import Plan
from s2s.models.spelling import Spelling
from s2s.nn.attention import KVCache
from s2s.nn.conv import CausalConv1d, ConvNeXtBlock, ConvNeXtBlocks, ConvState
from s2s.nn.packed import Kernels, for_live
from s2s.nn.sampling import Controls
from s2s.nn.transformer import Transformer, TransformerLayer, TransformerState
from s2s.streams import AGENT_TEXT


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
        # All layers in one, which takes less to hand over, and a feature of all slots at a time, as they are read.
        shape = (rows, c.num_layers, c.num_kv_heads, c.width // c.num_heads, c.window)
        cache = KVCache(torch.zeros(shape), torch.zeros(shape))
        return TransformerState(torch.zeros(rows, dtype=torch.long), [cache])

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
            assert isinstance(embedding, nn.Embedding)
            values, unread = _numpy(embedding.weight), stream.name in c.unread
            tables.append(backbone.Table(first, stream.num_rows, stream.vocab_size, unread, stream.table_size, values))
        places = [(c.spelling_layer, model.spelling), (c.wording_layer, model.wording)]
        (first, earlier), (second, later) = sorted(places, key=lambda place: place[0])
        layers: transformer.Layers = transformer_.kept.weights
        self.kept = Kept(
            backbone.Backbone(
                tuple(tables),
                tuple(mixes),
                layers,
                (_spelled(earlier), _spelled(later)),
                np.array([0, first, second, c.backbone.num_layers]),
                _numpy(transformer_.norm.weight),
            )
        )
        self.base = c.backbone.rope_base

    def forward(self, grid: Tensor, state: TransformerState) -> Tensor:
        """grid [B, R, 1] -> hidden [B, 1, D]."""
        hidden: Tensor = torch.ops.s2s.think(grid[..., 0], *_caches(state), self.base, self.kept.number)
        state.position += 1
        return hidden[:, None]


class CompiledTalker(nn.Module):
    """What a `DuplexModel` of compiled modules makes of the agent's words and codes in one step."""

    def __init__(self, model: DuplexModel):
        super().__init__()
        assert model.talker is not None and model.audio_stream is not None
        transformer_, sound = model.talker.transformer, model.embeddings[model.audio_stream.name]
        words = model.embeddings[AGENT_TEXT]
        assert isinstance(transformer_, CompiledTransformer)
        assert isinstance(words, nn.Embedding) and isinstance(sound, AudioEmbedding)
        self.kept = Kept(
            talker.Talker(
                _numpy(words.weight),
                _numpy(sound.codes.weight),
                sound.table_size,
                _weights(sound.out),
                _weights(model.talker.words),
                _weights(model.talker.sound),
                transformer_.kept.weights,
                _numpy(transformer_.norm.weight),
            )
        )
        self.base = transformer_.config.rope_base

    def forward(self, text: Tensor, codes: Tensor, state: TransformerState) -> Tensor:
        """text [B, 1], codes [B, K, 1] -> [B, 1, W]."""
        caches = _caches(state)
        voice: Tensor = torch.ops.s2s.talk(text[:, 0], codes[..., 0], *caches, self.base, self.kept.number)
        state.position += 1
        return voice[:, None]


class CompiledPlan(Plan):
    """A `Plan` of one step."""

    def __init__(self, exact: Plan):
        nn.Module.__init__(self)  # with none of a plan's own weights
        self.width, self.vocab_size = exact.width, exact.vocab_size
        self.num_tokens, self.reach = exact.num_tokens, exact.reach
        self.out: nn.Module = CompiledLinear(exact.out.weight)
        inputs = pack(_stack((exact.begun.weight, exact.last.weight)))
        self.kept = Kept(talker.Plan(inputs, _numpy(exact.place.weight), _weights(self.out)))

    def forward(self, hidden: Tensor, said: Tensor, last: Tensor) -> Tensor:
        asked: Tensor = torch.ops.s2s.ask(hidden, said, last, self.kept.number)
        return asked


def _spelled(spelling: Spelling | None) -> backbone.Spelled:
    if spelling is None:
        none = pack(np.zeros((1, 1, 1), np.float32))
        return backbone.Spelled(np.zeros(1, np.float32), 0.0, none, 0, none)
    classes, norm = spelling.head.out_features, spelling.norm
    return backbone.Spelled(_numpy(norm.weight), norm.eps, _weights(spelling.head), classes, _weights(spelling.back))


def _weights(linear: nn.Module) -> Matrices:
    assert isinstance(linear, CompiledLinear)
    matrices: Matrices = linear.kept.weights
    return matrices


def _caches(state: TransformerState) -> tuple[Tensor, Tensor, Tensor]:
    return state.position, state.layers[0].keys, state.layers[0].values


class CompiledDepth(nn.Module):
    """A `DepthTransformer` that samples."""

    def __init__(self, exact: DepthTransformer):
        super().__init__()
        self.num_codebooks, self.table_size, self.heads = exact.num_codebooks, exact.table_size, exact.config.num_heads
        layers = [layer for layer in exact.layers if isinstance(layer, DepthLayer)]
        weights = depth.Depth(
            _packed(exact.condition),
            _numpy(exact.place),
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

    def sample(self, hidden: Tensor, controls: Controls | None, draws: Tensor, forced: Tensor | None = None) -> Tensor:
        """As `DepthTransformer.sample`."""
        if controls is None:
            temperature, top_k = hidden.new_zeros(len(hidden)), draws.new_zeros(len(hidden), dtype=torch.long)
        else:
            temperature, top_k = controls.temperature, controls.top_k
        if forced is None:
            forced = torch.full(draws.shape, -1)
        numbers = (self.heads, self.vocab, self.table_size, self.kept.number)
        codes: Tensor = torch.ops.s2s.depth(hidden, temperature, top_k, draws.double(), forced, *numbers)
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
        return [ConvState(torch.zeros(rows, self.depth, *self.context))]  # of all blocks in one

    def forward(self, x: Tensor, state: list[ConvState]) -> Tensor:
        y: Tensor = torch.ops.s2s.blocks(x, state[0].context, self.kept.number)
        return y


class CompiledEncoder(nn.Module):
    """A `SpectralEncoder` on a few frames at a time."""

    window: Tensor

    def __init__(self, exact: SpectralEncoder):
        super().__init__()
        c = self.config = exact.config
        self.hop_blocks, self.frame_blocks = CompiledBlocks(exact.hop_blocks), CompiledBlocks(exact.frame_blocks)
        self.register_buffer("window", exact.window.clone(), persistent=False)
        self.left, self.hop_width, conv = exact.down.left, c.hop_width, exact.down.conv
        filters = _numpy(exact.filters)
        used: NDArray[np.bool_] = np.greater(filters, 0)
        bins = np.stack([used.argmax(axis=0), len(used) - used[::-1].argmax(axis=0)], axis=1)
        self.kept = Kept(
            spectral.Encoder(
                filters,
                np.where(used.any(axis=0)[:, None], bins, 0),
                _packed(exact.embed),
                self.hop_blocks.kept.weights,
                pack(_numpy(conv.weight.transpose(1, 2).flatten(1))[None], _numpy(conv.bias)[None]),
                exact.down.stride,
                self.frame_blocks.kept.weights,
                _numpy(exact.norm.weight),
                _numpy(exact.norm.bias),
                exact.norm.eps,
                _packed(exact.out),
                c.code_dim,
            )
        )

    def init_state(self, rows: int) -> EncoderState:
        return EncoderState(
            torch.zeros(rows, self.config.analysis_window - self.config.hop_size),
            self.hop_blocks.init_state(rows),
            ConvState(torch.zeros(rows, self.left, self.hop_width)),
            self.frame_blocks.init_state(rows),
        )

    def forward(self, wav: Tensor, state: EncoderState) -> Tensor:
        """wav [B, N] -> latent vectors [B, T, code_dim]."""
        windows = windows_of(wav, state, self.config) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(windows))
        contexts = state.hop_blocks[0].context, state.down.context, state.frame_blocks[0].context
        vectors: Tensor = torch.ops.s2s.encode(spectrum, *contexts, self.kept.number)
        return vectors


class CompiledDecoder(nn.Module):
    """A `SpectralDecoder` on a few frames at a time."""

    window: Tensor

    def __init__(self, exact: SpectralDecoder):
        super().__init__()
        self.frame_blocks, self.hop_blocks = CompiledBlocks(exact.frame_blocks), CompiledBlocks(exact.hop_blocks)
        self.register_buffer("window", exact.window.clone(), persistent=False)
        self.later = exact.config.synthesis_window - exact.config.decoder_hop
        self.kept = Kept(
            spectral.Decoder(
                _packed(exact.embed),
                self.frame_blocks.kept.weights,
                _packed(exact.up),
                exact.hops_per_frame,
                self.hop_blocks.kept.weights,
                _numpy(exact.norm.weight),
                _numpy(exact.norm.bias),
                exact.norm.eps,
                _packed(exact.head),
                exact.head.out_features,
            )
        )

    def init_state(self, rows: int) -> DecoderState:
        contexts = self.frame_blocks.init_state(rows), self.hop_blocks.init_state(rows)
        return DecoderState(*contexts, torch.zeros(rows, self.later))

    def forward(self, vectors: Tensor, state: DecoderState) -> Tensor:
        """vectors [B, T, code_dim] -> wav [B, N]."""
        contexts = state.frame_blocks[0].context, state.hop_blocks[0].context
        spectrum = spectrum_of(torch.ops.s2s.decode(vectors, *contexts, self.kept.number))
        wav: Tensor = torch.ops.s2s.overlap(torch.fft.irfft(spectrum), self.window, state.tail)
        return wav


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


def _coder(exact: SpectralEncoder | SpectralDecoder, kind: Callable[[Any], nn.Module]) -> nn.Module:
    """As one kernel, if it has blocks in both places."""
    return kind(exact) if len(exact.hop_blocks) and len(exact.frame_blocks) else for_live(exact, True, COMPILED)


COMPILED: Kernels = {
    nn.Linear: lambda linear: CompiledLinear(linear.weight, linear.bias),
    CausalConv1d: _dense,
    ConvNeXtBlocks: lambda blocks: CompiledBlocks(blocks) if len(blocks) else blocks,
    ResidualVectorQuantizer: CompiledQuantizer,
    Plan: CompiledPlan,
    SpectralEncoder: lambda encoder: _coder(encoder, CompiledEncoder),
    SpectralDecoder: lambda decoder: _coder(decoder, CompiledDecoder),
    Transformer: CompiledTransformer,
    DepthTransformer: CompiledDepth,
}
"""What becomes of modules of these types in a live step."""


def _packed(linear: nn.Linear) -> Matrices:
    return pack(_numpy(linear.weight)[None], None if linear.bias is None else _numpy(linear.bias)[None])


def _numpy(tensor: Tensor | None) -> NDArray[np.float32]:
    assert tensor is not None
    return np.ascontiguousarray(tensor.detach().float().numpy())


def _stack(tensors: Iterable[Tensor | None]) -> NDArray[np.float32]:
    return np.stack([_numpy(tensor) for tensor in tensors])


def _stepped(maps: Iterable[SteppedLinear]) -> Matrices:
    """The matrices of all layers, layer by layer."""
    return pack(np.concatenate([_numpy(linear.weight) for linear in maps]))
