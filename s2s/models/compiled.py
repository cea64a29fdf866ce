"""The duplex model of a live step on compiled kernels, and which modules they take the place of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s2s.codec.compiled import CompiledDecoder, CompiledEncoder, CompiledQuantizer
from s2s.codec.rvq import ResidualVectorQuantizer
from s2s.codec.spectral import SpectralDecoder, SpectralEncoder
from s2s.kernels import ahead, backbone, depth, talker, transformer
from s2s.kernels.operations import Kept
from s2s.kernels.products import Matrices, pack
from s2s.models.ahead import CERTAIN, DOUBT, DOUBT_KEPT, REPLY_STEPS, Ahead, AheadState, Clock
from s2s.models.depth import DepthLayer, DepthTransformer, SteppedLinear
from s2s.models.duplex import AudioEmbedding, DuplexModel
from s2s.models.plan import Plan
from s2s.models.spelling import Spelling
from s2s.models.talker import EVEN, FAST, STOP_LOGIT, TalkerClock, TalkerState, Timing
from s2s.nn.compiled import (
    CompiledBlocks,
    CompiledLinear,
    CompiledTransformer,
    caches_of,
    compiled_conv,
    numpy_of,
    packed,
    stacked,
    weights_of,
)
from s2s.nn.conv import CausalConv1d, ConvNeXtBlocks
from s2s.nn.packed import Kernels, for_live
from s2s.nn.sampling import Controls
from s2s.nn.transformer import Transformer, TransformerState
from s2s.streams import AGENT_TEXT, RingState, StreamLayout, TokenRing


class CompiledModel(DuplexModel):
    """A `DuplexModel` whose modules are compiled ones already, one step at a time."""

    def __init__(self, model: DuplexModel):
        nn.Module.__init__(self)  # with none of a model's own weights
        vars(self).update(vars(model))
        self.thinks = CompiledBackbone(model)
        self.talks = None if model.talker is None else CompiledTalker(model)

    def forward(self, grid: Tensor, state: TransformerState | None = None, read: Tensor | None = None) -> Tensor:
        """grid [B, R, 1] -> hidden [B, 1, D]. Raises ValueError for anything but one step of a state."""
        self.check(grid)
        if state is None or read is not None or grid.shape[2] != 1:
            raise ValueError("a live model takes one step of a state at a time and hears for itself")
        hidden: Tensor = self.thinks(grid, state)
        return hidden

    def voice(self, hidden: Tensor, text: Tensor, codes: Tensor, state: TalkerState) -> Tensor:
        assert self.talks is not None
        voice: Tensor = self.talks(hidden, text, codes, state)
        return voice

    def ring(self) -> TokenRing:
        return CompiledRing(self.layout)

    def foresight(self) -> Ahead | None:
        exact, timing = super().foresight(), None if self.talker is None else self.talker.timing
        return exact if exact is None or exact.plan is None or timing is None else CompiledAhead(exact, timing)


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
                mixes.append(weights_of(embedding.out))
                embedding = embedding.codes
            assert isinstance(embedding, nn.Embedding)
            values, unread = numpy_of(embedding.weight), stream.name in c.unread
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
                numpy_of(transformer_.norm.weight),
            )
        )
        self.base = c.backbone.rope_base

    def forward(self, grid: Tensor, state: TransformerState) -> Tensor:
        """grid [B, R, 1] -> hidden [B, 1, D]."""
        hidden: Tensor = torch.ops.s2s.think(grid[..., 0], *caches_of(state), self.base, self.kept.number)
        state.position += 1
        return hidden[:, None]


class CompiledTalker(nn.Module):
    """What a `DuplexModel` of compiled modules makes of the agent's words and codes in one step."""

    def __init__(self, model: DuplexModel):
        super().__init__()
        assert model.talker is not None and model.audio_stream is not None
        transformer_, sound = model.talker.transformer, model.embeddings[model.audio_stream.name]
        words, timing = model.embeddings[AGENT_TEXT], model.talker.timing
        assert isinstance(transformer_, CompiledTransformer)
        assert isinstance(words, nn.Embedding) and isinstance(sound, AudioEmbedding)
        self.kept = Kept(
            talker.Talker(
                numpy_of(words.weight),
                numpy_of(sound.codes.weight),
                sound.table_size,
                weights_of(sound.out),
                weights_of(model.talker.words),
                weights_of(model.talker.sound),
                transformer_.kept.weights,
                numpy_of(transformer_.norm.weight),
                weights_of(model.talker.stop),
                STOP_LOGIT,
                model.layout.stream(AGENT_TEXT).vocab_size,
                weights_of(model.talker.stop if timing is None else timing.out),
                np.zeros(0, np.float32) if timing is None else numpy_of(timing.shortest),
            )
        )
        self.base = transformer_.config.rope_base

    def forward(self, hidden: Tensor, text: Tensor, codes: Tensor, state: TalkerState) -> Tensor:
        """As `DuplexModel.voice`."""
        places = (*caches_of(state.layers), state.stopped, state.out, state.rest)
        voice: Tensor = torch.ops.s2s.talk(hidden, text, codes, *places, self.base, self.kept.number)
        state.layers.position += 1
        return voice


class CompiledAhead(Ahead):
    """An `Ahead` with a plan, for a talker that keeps time."""

    def __init__(self, exact: Ahead, timing: Timing):
        super().__init__(exact.head, exact.vocab_size, exact.plan, exact.words)
        plan, words = exact.plan, exact.words
        assert isinstance(plan, CompiledPlan) and isinstance(words, nn.Embedding)
        self.kept = Kept(
            ahead.Ahead(
                numpy_of(words.weight),
                weights_of(exact.head),
                plan.kept.weights,
                FAST * numpy_of(timing.token.weight[:, 0]),
                numpy_of(timing.joined),
                REPLY_STEPS,
                DOUBT,
                DOUBT_KEPT,
                EVEN,
                CERTAIN,
            )
        )

    def decide(self, hidden: Tensor, logits: Tensor, state: AheadState, clock: Clock | None = None) -> Tensor:
        assert isinstance(clock, TalkerClock) and state.plan is not None
        plan, time = state.plan, clock.state
        places = (state.logits, state.left, state.doubt, plan.hidden, plan.said, plan.last, plan.idle)
        times = (time.stopped, time.out, time.waited, time.rest)
        decided: Tensor = torch.ops.s2s.decide(hidden, logits, *places, *times, self.kept.number)
        return decided

    def follow(self, ids: Tensor, hidden: Tensor, state: AheadState) -> None:
        assert state.plan is not None
        plan = state.plan
        places = (state.left, state.doubt, plan.hidden, plan.said, plan.last, plan.idle)
        torch.ops.s2s.follow(ids, hidden, *places, self.kept.number)


class CompiledRing(TokenRing):
    """A `TokenRing` whose tokens are moved by a kernel."""

    def __init__(self, layout: StreamLayout):
        super().__init__(layout)
        self._first = {stream.name: layout.rows(stream.name).start for stream in layout.streams}

    def read(self, state: RingState, heard: Mapping[str, Tensor]) -> Tensor:
        self._check(state, heard, "hear")
        return self._taken_in(state, heard, self._read)

    def write(self, state: RingState, said: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._check(state, said, "speak")
        frames = self._taken_in(state, said, self._complete)
        state.position += 1
        return {stream.name: frames[:, self.layout.rows(stream.name)] for stream in self.layout.side("speak")}

    def _taken_in(self, state: RingState, tracks: Mapping[str, Tensor], slots: Tensor) -> Tensor:
        """Make the ids of all `tracks` the newest; what is then in these slots [B, R]."""
        first = [self._first[name] for name in tracks]
        ids: Tensor = torch.ops.s2s.ring(state.tokens, first, list(tracks.values()), slots, self._start)
        return ids


class CompiledPlan(Plan):
    """A `Plan` of one step."""

    def __init__(self, exact: Plan):
        nn.Module.__init__(self)  # with none of a plan's own weights
        self.width, self.vocab_size = exact.width, exact.vocab_size
        self.num_tokens, self.reach = exact.num_tokens, exact.reach
        self.out = CompiledLinear(exact.out.weight)  # type: ignore[assignment]  # tells the dtype of states
        inputs = pack(stacked((exact.begun.weight, exact.last.weight)))
        self.kept = Kept(ahead.Plan(inputs, numpy_of(exact.place.weight), weights_of(self.out), exact.reach))

    def forward(self, hidden: Tensor, said: Tensor, last: Tensor) -> Tensor:
        """As `Plan.forward`: hidden [B, D], `said` [B], last [B, D] -> [B, D]."""
        asked: Tensor = torch.ops.s2s.ask(hidden, said, last, self.kept.number)
        return asked


class CompiledDepth(nn.Module):
    """A `DepthTransformer` that samples."""

    def __init__(self, exact: DepthTransformer):
        super().__init__()
        self.num_codebooks, self.table_size, self.heads = exact.num_codebooks, exact.table_size, exact.config.num_heads
        layers = [layer for layer in exact.layers if isinstance(layer, DepthLayer)]
        weights = depth.Depth(
            packed(exact.condition),
            numpy_of(exact.place),
            numpy_of(exact.codes.weight),
            pack(numpy_of(exact.from_code.weight)),
            transformer.Layers(
                stacked(layer.attention_norm.weight for layer in layers),
                _stepped(layer.qkv for layer in layers),
                _stepped(layer.out for layer in layers),
                stacked(layer.mlp_norm.weight for layer in layers),
                _stepped(layer.gate_up for layer in layers),
                _stepped(layer.down for layer in layers),
                exact.config.hidden,
                exact.norm.eps,
            ),
            numpy_of(exact.norm.weight),
            pack(numpy_of(exact.heads.weight)),
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


def _spelled(spelling: Spelling | None) -> backbone.Spelled:
    if spelling is None:
        none = pack(np.zeros((1, 1, 1), np.float32))
        return backbone.Spelled(np.zeros(1, np.float32), 0.0, none, 0, none)
    classes, norm = spelling.head.out_features, spelling.norm
    return backbone.Spelled(
        numpy_of(norm.weight), norm.eps, weights_of(spelling.head), classes, weights_of(spelling.back)
    )


def _stepped(maps: Iterable[SteppedLinear]) -> Matrices:
    """The matrices of all layers, layer by layer."""
    return pack(np.concatenate([numpy_of(linear.weight) for linear in maps]))


def _coder(exact: SpectralEncoder | SpectralDecoder, kind: Callable[[Any], nn.Module]) -> nn.Module:
    """As one kernel, if it has blocks in both places."""
    return kind(exact) if len(exact.hop_blocks) and len(exact.frame_blocks) else for_live(exact, True, COMPILED)


COMPILED: Kernels = {
    nn.Linear: lambda linear: CompiledLinear(linear.weight, linear.bias),
    CausalConv1d: compiled_conv,
    ConvNeXtBlocks: lambda blocks: CompiledBlocks(blocks) if len(blocks) else blocks,
    ResidualVectorQuantizer: CompiledQuantizer,
    Plan: CompiledPlan,
    SpectralEncoder: lambda encoder: _coder(encoder, CompiledEncoder),
    SpectralDecoder: lambda decoder: _coder(decoder, CompiledDecoder),
    Transformer: CompiledTransformer,
    DepthTransformer: CompiledDepth,
}
"""What becomes of modules of these types in a live step."""
