"""The table of streaming modules that the contract test goes through, and how each of them is driven."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.cpu import _is_avx2_supported

from s2s.codec.encodec import Chain, EncodecCodec, ResidualBlock, ResidualLSTM
from s2s.codec.spectral import SpectralCodec, SpectralDecoder, SpectralEncoder
from s2s.models.ahead import Ahead
from s2s.models.dictated import DictatedStep
from s2s.models.duplex import DuplexModel
from s2s.models.graphed import GraphedStep
from s2s.models.letters import SpellingStep
from s2s.models.phrased import PhrasedStep
from s2s.models.plan import Plan
from s2s.models.scripted import Script, ScriptedStep
from s2s.models.step import DuplexStep, EchoStep
from s2s.models.talker import Talker
from s2s.models.traced import TracedStep, live_step
from s2s.nn.attention import Attention
from s2s.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvNeXtBlock, ConvNeXtBlocks
from s2s.nn.transformer import Transformer, TransformerConfig
from s2s.phrases import Graph
from s2s.streaming import State
from s2s.streams import Stream, StreamLayout, TokenRing
from tests.tiny import (
    SMALL_SPEC,
    same_controls,
    stirred,
    tiny_codec,
    tiny_codec_config,
    tiny_encodec,
    tiny_layout,
    tiny_model,
    tiny_step,
)

LENGTH = 23
"""Units of time in a test sequence: longer than every window and every context of the table."""


@dataclass(frozen=True)
class Case:
    """A streaming module and how to drive it. Times are in units, the smallest piece the module takes."""

    name: str
    covers: tuple[type, ...]
    build: Callable[[], Any]
    data: Callable[[int, int], Tensor]
    """(rows, units) -> a random input."""
    run: Callable[[Any, Tensor, State | None], Tensor] = lambda module, x, state: module(x, state)
    init: Callable[[Any, int], State] = lambda module, rows: module.init_state(rows)
    time: int = 1
    """Axis of time in the input."""
    unit: int = 1
    """Input positions along that axis per unit."""
    out_time: int = 1
    out_unit: int = 1
    ticks: bool = False
    """Takes exactly one unit at a time and has no whole-sequence form."""
    gradient: bool = True
    """Causality can be read off the gradient; modules that read or write tokens are tested by changing the input."""

    def cut(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x.narrow(self.time, start * self.unit, (stop - start) * self.unit)

    def play(self, module: Any, x: Tensor, state: State, cuts: list[int] | None = None) -> Tensor:
        """Run x through in chunks of the given lengths, in units; one by one when None."""
        units = x.shape[self.time] // self.unit
        cuts = [1] * units if cuts is None or self.ticks else cuts
        assert sum(cuts) == units
        outputs, start = [], 0
        with torch.no_grad():
            for length in cuts:
                outputs.append(self.run(module, self.cut(x, start, start + length), state))
                start += length
        return torch.cat(outputs, dim=self.out_time)

    def whole(self, module: Any, x: Tensor) -> Tensor:
        if self.ticks:
            return self.play(module, x, self.init(module, len(x)))
        with torch.no_grad():
            return self.run(module, x, None)


def vectors(channels: int, unit: int = 1) -> Callable[[int, int], Tensor]:
    return lambda rows, units: torch.randn(rows, units * unit, channels, dtype=torch.float64)


def samples(size: int, *channel: int) -> Callable[[int, int], Tensor]:
    return lambda rows, units: torch.randn(rows, *channel, units * size, dtype=torch.float64)


def tokens(*sizes: int) -> Callable[[int, int], Tensor]:
    """Content ids below sizes[r] in grid row r."""
    return lambda rows, units: torch.stack([torch.randint(size, (rows, units)) for size in sizes], dim=1)


def double(module: nn.Module) -> nn.Module:
    return stirred(module).double()


def conv(stride: int = 1, dilation: int = 1, groups: int = 1, kernel_size: int = 5) -> Case:
    return Case(
        f"conv stride {stride} dilation {dilation} groups {groups} kernel {kernel_size}",
        (CausalConv1d,),
        lambda: double(CausalConv1d(4, 6, kernel_size, stride, dilation, groups)),
        vectors(4, stride),
        unit=stride,
    )


def conv_transpose(kernel_size: int, stride: int, groups: int = 1) -> Case:
    return Case(
        f"transposed conv kernel {kernel_size} stride {stride} groups {groups}",
        (CausalConvTranspose1d,),
        lambda: double(CausalConvTranspose1d(4, 6, kernel_size, stride, groups)),
        vectors(4),
        out_unit=stride,
    )


def transformer(window: int, num_heads: int = 4, num_kv_heads: int = 2, num_layers: int = 2) -> Case:
    config = TransformerConfig(16, num_layers, num_heads, num_kv_heads, hidden=24, window=window)
    return Case(
        f"transformer window {window} heads {num_heads}/{num_kv_heads} layers {num_layers}",
        (Transformer, Attention),
        lambda: double(Transformer(config)),
        vectors(16),
    )


def run_step(step: Any, wav: Tensor, state: State | None, temperature: float = 0.9) -> Tensor:
    """A step's audio and text in one tensor [B, step_size + texts, 1], so that one comparison sees both."""
    out = step(wav, state, same_controls(len(wav), temperature))
    return torch.cat([out.wav[:, 0], *(ids[:, None].to(out.wav.dtype) for ids in out.text.values())], dim=1)[..., None]


def compiled(module: Any) -> Any:
    """The module on kernels, which know float32 alone: their rounding is the same in every arrangement."""
    from s2s.models.compiled import COMPILED

    return COMPILED[type(module)](stirred(module).eval())


def run_compiled(module: Any, x: Tensor, state: State | None) -> Tensor:
    out: Tensor = module(x.float(), module.init_state(len(x)) if state is None else state)
    return out.double()


RING_LAYOUT = StreamLayout(
    (Stream("in", 9, (0, 2), "hear"), Stream("text", 5, (0,), "speak"), Stream("out", 7, (0, 3, 1), "speak"))
)


def run_ring(ring: TokenRing, ids: Tensor, state: Any) -> Tensor:
    """Hear and say the given ids [B, R, 1]; returns what was read and which frames came out, [B, R', 1]."""
    given = {s.name: ids[:, RING_LAYOUT.rows(s.name), 0] for s in RING_LAYOUT.streams}
    inputs = ring.read(state, {"in": given["in"]})
    frames = ring.write(state, {name: given[name] for name in ("text", "out")})
    return torch.cat([inputs, *frames.values()], dim=1)[..., None]


@dataclass
class GivenClock:
    """A clock that is set: rows in which the agent has broken off and those in which a token is due [B] bool."""

    stopped: Tensor
    now: Tensor

    def due(self, token: Tensor, fresh: Tensor) -> Tensor:
        return self.now


def run_ahead(ahead: Ahead, x: Tensor, state: Any, timed: bool = False) -> Tensor:
    """Logits of both heads [B, 1, 2 * (V + 2)]; returns those that a step would sample from, and takes their best."""
    now, following = x[:, 0].chunk(2, dim=1)
    clock = GivenClock(now[:, 0] > 1, following[:, 0] > 0) if timed else None
    logits = ahead.decide(following, now, state, clock)
    ahead.follow(logits.argmax(dim=1), following, state)
    return logits[:, None]


def run_plan(plan: Plan, x: Tensor, state: Any) -> Tensor:
    """What a step thinks, what it would write without a plan and whether it waits [B, 1, D + V + 1]."""
    hidden, which, silent = x[:, 0].split([plan.width, plan.vocab_size, 1], dim=1)
    last = torch.nn.functional.one_hot(state.last.clamp(max=2), plan.width).to(x.dtype)
    planned = plan.next(last, state)[:, : plan.vocab_size]
    logits = plan.choose(planned, which, state)
    plan.follow(torch.where(silent[:, 0] > 0, plan.vocab_size, logits.argmax(dim=1)), hidden, state)
    return logits[:, None]


def run_compiled_plan(plan: Plan, x: Tensor, state: Any) -> Tensor:
    return run_plan(plan, x.float(), state).double()


def run_talker(talker: Talker, x: Tensor, state: Any) -> Tensor:
    """Words, sound and whether a word is written [B, 1, 2 D + 1] -> what the talker makes of them, whether the next
    word was due and whether the agent is silent [B, 1, W + 2]."""
    words, sound, says = x.split([5, 5, 1], dim=-1)
    clock = talker.clock(state)
    assert clock is not None
    due = clock.due((words[:, 0, 0] > 0).long(), sound[:, 0, 0] > 1)
    talker.break_off(words[:, 0], says[:, 0, 0] > 0, state)
    voice = talker(words, sound, state)
    talker.listen(voice[:, 0], torch.where(says[:, 0, 0] > 0, 3, 99), state)
    return torch.cat([voice, torch.stack([due, state.stopped], dim=-1)[:, None].to(x.dtype)], dim=-1)


def graphed_step() -> GraphedStep:
    return GraphedStep(tiny_step(SMALL_SPEC, acoustic_delay=2, dtype=torch.float64))


def compiled_step() -> DuplexStep:
    """With all that a kernel decides."""
    kind = {"ahead": True, "plan_tokens": 3, "talker": True, "talker_keeps_time": True}
    return live_step(tiny_step(SMALL_SPEC, acoustic_delay=2, **kind), int8=True)


@cache
def traced_step() -> TracedStep:
    """Made once: it is slow to trace and, like every step, remembers nothing."""
    return TracedStep(tiny_step(SMALL_SPEC, acoustic_delay=2, dtype=torch.float64))


def live(name: str, kind: type, build: Callable[[], object]) -> Case:
    """A step: one frame of samples in, one out, tick by tick."""
    return Case(
        name, (kind,), build, samples(SIZE, 1), run=run_step, time=2, unit=SIZE, out_time=2, ticks=True, gradient=False
    )


def some_phrases() -> Graph:
    """Three phrases of a tiny vocabulary, two of which begin alike."""
    graph = Graph()
    for tokens in ([3, 1, 4], [3, 2], [7]):
        at = 0
        for token in tokens:
            at = graph.add(at, [[token]])
        graph.final.add(at)
    return graph


def scripted_step() -> ScriptedStep:
    """A level above most of a random input, so that there are pauses to answer in."""
    answer = torch.randn(5 * SIZE // 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    script = Script(answer, delay_s=SIZE / SMALL_SPEC.sample_rate, yield_after_s=0.0, level=2.2)
    return ScriptedStep(script, SIZE, SMALL_SPEC.sample_rate)


SIZE = SMALL_SPEC.frame_size
CODES = (SMALL_SPEC.codebook_size,) * SMALL_SPEC.num_codebooks
LAYOUT = tiny_layout(SMALL_SPEC, acoustic_delay=1)

CASES = [
    conv(),
    conv(kernel_size=1),
    conv(stride=3),
    conv(stride=5),
    conv(dilation=4),
    conv(stride=2, dilation=3, groups=2),
    conv_transpose(4, 2),
    conv_transpose(3, 3),
    conv_transpose(11, 3, groups=2),
    Case(
        "ConvNeXt blocks",
        (ConvNeXtBlocks,),
        lambda: double(ConvNeXtBlocks(2, 5, 9, 4)),
        vectors(5),
    ),
    Case(
        "convnext block",
        (ConvNeXtBlock,),
        lambda: double(ConvNeXtBlock(5, 9, kernel_size=4, dilation=2)),
        vectors(5),
    ),
    transformer(window=1),
    transformer(window=4, num_layers=1),
    transformer(window=5),
    transformer(window=8, num_kv_heads=4),
    transformer(window=100, num_kv_heads=1),
    Case(
        "spectral encoder",
        (SpectralEncoder,),
        lambda: double(SpectralEncoder(tiny_codec_config(SMALL_SPEC))),
        samples(SIZE),
        unit=SIZE,
    ),
    Case(
        "spectral decoder",
        (SpectralDecoder,),
        lambda: double(SpectralDecoder(tiny_codec_config(SMALL_SPEC))),
        vectors(6),
        out_unit=SIZE,
    ),
    Case(
        "spectral codec encodes",
        (SpectralCodec,),
        lambda: tiny_codec(SMALL_SPEC).double(),
        samples(SIZE, 1),
        run=lambda codec, wav, state: codec.encode(wav, state),
        init=lambda codec, rows: codec.init_encoder(rows),
        time=2,
        unit=SIZE,
        out_time=2,
        gradient=False,
    ),
    Case(
        "spectral codec decodes",
        (SpectralCodec,),
        lambda: tiny_codec(SMALL_SPEC).double(),
        tokens(*CODES),
        run=lambda codec, codes, state: codec.decode(codes, state),
        init=lambda codec, rows: codec.init_decoder(rows),
        time=2,
        out_time=2,
        out_unit=SIZE,
        gradient=False,
    ),
    Case(
        "encodec lstm",
        (ResidualLSTM,),
        lambda: double(ResidualLSTM(5, 2)),
        vectors(5),
    ),
    Case(
        "encodec block",
        (ResidualBlock, Chain),
        lambda: double(ResidualBlock(6)),
        vectors(6),
    ),
    Case(
        "encodec encodes",
        (EncodecCodec,),
        lambda: tiny_encodec().double(),
        samples(12, 1),
        run=lambda codec, wav, state: codec.encode(wav, state),
        init=lambda codec, rows: codec.init_encoder(rows),
        time=2,
        unit=12,
        out_time=2,
        gradient=False,
    ),
    Case(
        "encodec decodes",
        (EncodecCodec,),
        lambda: tiny_encodec().double(),
        tokens(16, 16, 16),
        run=lambda codec, codes, state: codec.decode(codes, state),
        init=lambda codec, rows: codec.init_decoder(rows),
        time=2,
        out_time=2,
        out_unit=12,
        gradient=False,
    ),
    Case(
        "token ring",
        (TokenRing,),
        lambda: TokenRing(RING_LAYOUT),
        tokens(9, 9, 5, 7, 7, 7),
        run=run_ring,
        time=2,
        out_time=2,
        ticks=True,
        gradient=False,
    ),
    Case(
        "ahead",
        (Ahead,),
        lambda: Ahead(nn.Identity(), 6),
        vectors(16),
        run=run_ahead,
        init=lambda ahead, rows: ahead.init_state(rows, torch.device("cpu")),
        ticks=True,
        gradient=False,
    ),
    Case(
        "ahead by a clock",
        (Ahead,),
        lambda: Ahead(nn.Identity(), 6),
        vectors(16),
        run=partial(run_ahead, timed=True),
        init=lambda ahead, rows: ahead.init_state(rows, torch.device("cpu")),
        ticks=True,
        gradient=False,
    ),
    Case(
        "plan",
        (Plan,),
        lambda: stirred(Plan(6, 4, 3, reach=2)).double(),
        vectors(11),
        run=run_plan,
        ticks=True,
        gradient=False,
    ),
    Case(
        "talker",
        (Talker,),
        lambda: stirred(Talker(TransformerConfig(12, 2, 2, 1, hidden=16, window=4), 5, 2)).double(),
        vectors(11),
        run=run_talker,
        gradient=False,
        ticks=True,
    ),
    Case(
        "duplex model",
        (DuplexModel,),
        lambda: tiny_model(LAYOUT).double(),
        tokens(*(s.vocab_size for s in LAYOUT.streams for _ in s.delays)),
        time=2,
        gradient=False,
    ),
    live("duplex step", DuplexStep, lambda: tiny_step(SMALL_SPEC, acoustic_delay=2, dtype=torch.float64)),
    live("duplex step that looks ahead", DuplexStep, lambda: tiny_step(SMALL_SPEC, dtype=torch.float64, ahead=True)),
    live(
        "duplex step that plans",
        DuplexStep,
        lambda: tiny_step(SMALL_SPEC, dtype=torch.float64, ahead=True, plan_tokens=3),
    ),
    live(
        "duplex step with a talker",
        DuplexStep,
        lambda: tiny_step(SMALL_SPEC, acoustic_delay=1, dtype=torch.float64, talker=True),
    ),
    live(
        "duplex step with a talker that keeps time",
        DuplexStep,
        lambda: tiny_step(SMALL_SPEC, dtype=torch.float64, ahead=True, talker=True, talker_keeps_time=True),
    ),
    live("traced step", TracedStep, traced_step),
    live("graphed step", GraphedStep, graphed_step),  # as it is on a CPU; its graphs are tested in test_gpu.py
    live(
        "spelling step",
        SpellingStep,
        lambda: SpellingStep(tiny_codec(SMALL_SPEC).double(), tiny_model(LAYOUT, spelling_layer=1).double()),
    ),
    live(
        "phrased step",
        PhrasedStep,
        lambda: PhrasedStep(tiny_codec(SMALL_SPEC).double(), tiny_model(LAYOUT).double(), some_phrases()),
    ),
    live(
        "dictated step",
        DictatedStep,
        lambda: DictatedStep(tiny_codec(SMALL_SPEC).double(), tiny_model(LAYOUT).double()),
    ),
    live("echo step", EchoStep, lambda: EchoStep(SIZE, SMALL_SPEC.sample_rate)),
    live("scripted step", ScriptedStep, scripted_step),
]
if _is_avx2_supported():
    from s2s.codec.compiled import CompiledDecoder, CompiledEncoder
    from s2s.models.compiled import CompiledAhead, CompiledModel, CompiledPlan, CompiledRing
    from s2s.nn.compiled import CompiledBlocks, CompiledTransformer

    CASES += [
        replace(
            live("compiled step", CompiledModel, compiled_step),
            covers=(CompiledModel, CompiledTransformer, CompiledAhead, CompiledRing),
            run=lambda step, wav, state: run_step(step, wav.float(), state).double(),
        ),
        Case(
            "compiled plan",
            (CompiledPlan,),
            lambda: compiled(Plan(6, 4, 3, reach=2)),
            vectors(11),
            run_compiled_plan,
            ticks=True,
            gradient=False,
        ),
        Case(
            "compiled encoder",
            (CompiledEncoder,),
            lambda: compiled(SpectralEncoder(tiny_codec_config(SMALL_SPEC))),
            samples(SIZE),
            run_compiled,
            unit=SIZE,
            gradient=False,
        ),
        Case(
            "compiled decoder",
            (CompiledDecoder,),
            lambda: compiled(SpectralDecoder(tiny_codec_config(SMALL_SPEC))),
            vectors(6),
            run_compiled,
            out_unit=SIZE,
            gradient=False,
        ),
        Case(
            "compiled blocks",
            (CompiledBlocks,),
            lambda: compiled(ConvNeXtBlocks(2, 12, 20, 4)),
            vectors(12),
            run_compiled,
            gradient=False,
        ),
    ]
