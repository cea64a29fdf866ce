"""Compiled modules beside those that they are made of, and how long their weights live."""

import copy
import gc
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.cpu import _is_avx2_supported

from s2s.codec.rvq import ResidualVectorQuantizer
from s2s.codec.spectral import SpectralDecoder, SpectralEncoder
from s2s.models import traced
from s2s.models.ahead import Ahead
from s2s.models.depth import DepthConfig, DepthTransformer
from s2s.models.duplex import DuplexModel
from s2s.models.plan import Plan
from s2s.models.talker import TalkerClock
from s2s.models.traced import live_step
from s2s.nn.conv import CausalConv1d, ConvNeXtBlocks
from s2s.nn.packed import for_live
from s2s.nn.sampling import Controls, uniform_draws
from s2s.nn.transformer import Transformer, TransformerConfig
from s2s.streaming import leaves
from s2s.streams import TokenRing, dialogue_layout
from tests.tiny import SMALL_SPEC, same_controls, stirred, tiny_codec_config, tiny_model_config, tiny_step

if not _is_avx2_supported():
    pytest.skip("this processor has no AVX2", allow_module_level=True)

from s2s.codec.compiled import CompiledDecoder, CompiledEncoder
from s2s.kernels import operations, transformer
from s2s.models.compiled import COMPILED, CompiledAhead, CompiledDepth, CompiledModel, CompiledRing
from s2s.nn.compiled import CompiledBlocks, CompiledLinear, CompiledTransformer, caches_of


def assert_near(found: Tensor, exact: Tensor, share: float = 0.03) -> None:
    assert found.shape == exact.shape
    assert 0 < (found - exact).norm() < share * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 2), (2, 2), (6, 1)])
def test_a_transformer(num_heads: int, num_kv_heads: int) -> None:
    exact = stirred(Transformer(TransformerConfig(24, 3, num_heads, num_kv_heads, hidden=40, window=5))).eval()
    compiled = CompiledTransformer(exact)
    expected_state, state = exact.init_state(3), compiled.init_state(3)
    caches = [tensor.numpy() for tensor in caches_of(state)]
    for _ in range(12):  # beyond the window
        x = torch.randn(3, 1, 24)
        found = x[:, 0].clone()
        transformer.run(found.numpy(), *caches, compiled.kept.weights, 0, 3, exact.config.rope_base)
        state.position += 1
        assert_near(compiled.norm(found)[:, None], exact(x, expected_state))
    for layer, theirs in enumerate(expected_state.layers):
        assert_near(state.layers[0].keys[:, layer].transpose(-1, -2), theirs.keys)
        assert_near(state.layers[0].values[:, layer].transpose(-1, -2), theirs.values)


LAYOUT = dialogue_layout(3, 11, 19)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "spelling": {"spelling_layer": 1},
    "wording, and the transcript not read": {"wording_layer": 2, "unread": ("user_text",)},
    "both, and nothing said read but the agent's text": {
        "spelling_layer": 1,
        "wording_layer": 2,
        "unread": ("user_text", "agent"),
    },
}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keeps_time", [False, True])
def test_what_a_model_thinks_and_how_it_talks(kind: str, keeps_time: bool) -> None:
    config = tiny_model_config(LAYOUT, talker=True, ahead=keeps_time, talker_keeps_time=keeps_time)
    exact = stirred(DuplexModel(replace(config, **KINDS[kind])))
    assert exact.talker is not None
    if exact.talker.timing is not None:
        exact.talker.timing.shortest.copy_(torch.arange(19) % 4)
    live = CompiledModel(for_live(exact, True, COMPILED))
    assert live.talker is not None
    states, talking = (
        [make(3) for make in (exact.init_state, live.init_state)],
        [model.talker.init_state(3) for model in (exact, live)],
    )
    sizes = [stream.table_size for stream in LAYOUT.streams for _ in stream.delays]
    for at in range(9):  # beyond the window
        grid = torch.stack([torch.randint(size, (3, 1)) for size in sizes], dim=1)
        grid[0] = torch.tensor(sizes)[:, None] - (2 if at % 2 else 1)  # START and PAD everywhere
        assert_near(live(grid, states[1]), exact(grid, states[0]), 0.05)
        text, codes, hidden = (
            grid[:, LAYOUT.rows("agent_text"), 0],
            grid[:, LAYOUT.rows("agent"), 0],
            torch.randn(3, 24),
        )
        voices = [
            model.voice(hidden, text[:, 0], codes, state) for model, state in zip((exact, live), talking, strict=True)
        ]
        assert_near(voices[1], voices[0], 0.05)
        assert states[1].position.tolist() == talking[1].layers.position.tolist() == [at + 1] * 3
        assert torch.equal(talking[0].stopped, talking[1].stopped) and torch.equal(talking[0].rest, talking[1].rest)
        torch.testing.assert_close(talking[1].out, talking[0].out, rtol=0.05, atol=0.05)


def test_a_live_model_takes_a_state_and_nothing_to_read() -> None:
    live = CompiledModel(for_live(DuplexModel(tiny_model_config(LAYOUT)), True, COMPILED))
    grid = torch.zeros(1, LAYOUT.num_rows, 1, dtype=torch.long)
    for state, read in ((None, None), (live.init_state(1), grid[:, 0])):
        with pytest.raises(ValueError, match="one step of a state at a time"):
            live(grid, state, read)
    with pytest.raises(ValueError, match="one step of a state at a time"):
        live(grid.expand(-1, -1, 2), live.init_state(1))
    with pytest.raises(ValueError, match="grid has the shape"):
        live(grid[:, 1:], live.init_state(1))


@torch.no_grad()
def test_what_comes_next_and_when() -> None:
    """Beside the same decisions made of the library's operations, on products of the same 8 bits."""
    torch.manual_seed(1)
    model = stirred(
        DuplexModel(tiny_model_config(LAYOUT, ahead=True, plan_tokens=4, talker=True, talker_keeps_time=True))
    )
    assert model.plan is not None and model.talker is not None and model.talker.timing is not None
    model.plan.reach, size = 5, 19
    timing, head = model.talker.timing, COMPILED[nn.Linear](model.ahead)
    timing.token.weight.mul_(0.2)
    timing.joined.copy_(torch.arange(size) % 5 == 0)
    library = Ahead(
        head, size, for_live(model.plan, True, {nn.Linear: COMPILED[nn.Linear]}), model.embeddings["agent_text"]
    )
    kernel = CompiledAhead(Ahead(head, size, COMPILED[Plan](model.plan), library.words), timing)
    states = [each.init_state(4, torch.device("cpu")) for each in (library, kernel)]
    times = [model.talker.init_state(4) for _ in states]
    written = []
    for at in range(300):
        hidden, logits = torch.randn(4, 24), 2 * torch.randn(4, size + 2)
        logits[:, size + 1] += 4.0 * ((at // 20) % 3)
        news = torch.rand(4) < 0.1, torch.randn(4) - 1, torch.randint(-2, 4, (4,)).float()
        for time in times:
            for leaf, new in zip((time.stopped, time.out, time.rest), news, strict=True):
                leaf.copy_(new)
        expected, found = (
            each.decide(hidden, logits, state, TalkerClock(timing, time))
            for each, state, time in zip((library, kernel), states, times, strict=True)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3)
        ids = expected.argmax(dim=1)
        assert torch.equal(found.argmax(dim=1), ids)
        written.append(ids < size)
        for each, state in zip((library, kernel), states, strict=True):
            each.follow(ids, hidden, state)
        for theirs, ours in zip(
            [*leaves(states[0]), times[0].waited], [*leaves(states[1]), times[1].waited], strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-3)
    assert 0.1 < torch.stack(written).float().mean() < 0.9


@torch.no_grad()
@pytest.mark.parametrize("acoustic_delay", [0, 2])
def test_a_ring(acoustic_delay: int) -> None:
    layout = dialogue_layout(3, 11, 19, acoustic_delay)
    rings = TokenRing(layout), CompiledRing(layout)
    states = [ring.init_state(2) for ring in rings]
    for _ in range(5):
        ids = {s.name: torch.randint(s.vocab_size, (2, s.num_rows)) for s in layout.streams}
        said = {name: ids[name] for name in ("user_text", "agent_text", "agent")}
        inputs = [ring.read(state, {"user": ids["user"]}) for ring, state in zip(rings, states, strict=True)]
        frames = [ring.write(state, said) for ring, state in zip(rings, states, strict=True)]
        assert torch.equal(*inputs) and list(frames[0]) == list(frames[1])
        assert all(torch.equal(frames[0][name], frames[1][name]) for name in said)
    assert torch.equal(states[0].tokens, states[1].tokens) and torch.equal(states[0].position, states[1].position)
    with pytest.raises(ValueError, match="ids of the stream 'user' are missing"):
        rings[1].read(states[1], {})


@torch.no_grad()
def test_a_plan() -> None:
    exact = stirred(Plan(24, 19, 4))
    compiled = COMPILED[Plan](exact)
    hidden, last, said = torch.randn(5, 24), torch.randn(5, 24), torch.tensor([0, 1, 2, 3, 3])
    found = compiled(hidden, said, last)
    assert_near(found - hidden, exact(hidden, said, last) - hidden, 0.05)
    assert not list(compiled.parameters())


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"ahead": True},
        {"ahead": True, "plan_tokens": 3},
        {"talker": True},
        {"ahead": True, "plan_tokens": 3, "talker": True},
        {"ahead": True, "talker": True, "talker_keeps_time": True},
        {"ahead": True, "plan_tokens": 3, "talker": True, "talker_keeps_time": True},
    ],
)
def test_a_step_of_every_kind_of_model(kind: dict[str, Any]) -> None:
    step = live_step(tiny_step(SMALL_SPEC, **kind), int8=True)
    state, texts = step.init_state(2), []
    for _ in range(12):
        out = step(torch.randn(2, 1, SMALL_SPEC.frame_size), state, same_controls(2, 1.5))
        assert torch.isfinite(out.wav).all()
        texts.append(out.text["agent_text"])
    assert len(torch.stack(texts).unique()) > 3


@torch.no_grad()
def test_an_encoder_and_a_decoder() -> None:
    config = replace(tiny_codec_config(SMALL_SPEC), hop_depth=2, decoder_frame_depth=2)
    encoder, decoder = stirred(SpectralEncoder(config)), stirred(SpectralDecoder(config))
    encodes, decodes = COMPILED[SpectralEncoder](encoder), COMPILED[SpectralDecoder](decoder)
    assert isinstance(encodes, CompiledEncoder) and isinstance(decodes, CompiledDecoder)
    states = [module.init_state(2) for module in (encodes, encoder, decodes, decoder)]
    for frames in (1, 3, 1):
        wav = torch.randn(2, frames * SMALL_SPEC.frame_size)
        wav[0, ::3] = 0
        vectors = encoder(wav, states[1])
        assert_near(encodes(wav, states[0]), vectors, 0.05)
        assert_near(decodes(vectors, states[2]), decoder(vectors, states[3]), 0.05)


def test_an_encoder_without_blocks_is_made_of_other_kernels() -> None:
    exact = stirred(SpectralEncoder(replace(tiny_codec_config(SMALL_SPEC), hop_depth=0)))
    compiled, wav = COMPILED[SpectralEncoder](exact), torch.randn(2, SMALL_SPEC.frame_size)
    assert not isinstance(compiled, CompiledEncoder) and isinstance(compiled.embed, CompiledLinear)  # type: ignore[unreachable]
    assert_near(compiled(wav, compiled.init_state(2)), exact(wav, exact.init_state(2)), 0.05)


@torch.no_grad()
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_depth_transformer(per_step: bool, num_layers: int) -> None:
    """Given the exact one's codes but the last: as often as not the likeliest code would otherwise lead elsewhere."""
    exact = DepthTransformer(DepthConfig(24, num_layers, 4, 40, 8, per_step), 16, 5, 30, 32)
    exact = stirred(exact).eval()
    compiled = CompiledDepth(exact)
    hidden, agreed = torch.randn(64, 16), 0
    draws = uniform_draws(torch.arange(64), torch.zeros(64), 5)
    for temperature in (0.0, 1.0):
        controls = Controls.uniform(64, temperature, top_k=8)
        codes = exact.sample(hidden, controls, draws)
        forced = codes.clone()
        forced[:, 4] = -1
        assert torch.equal(exact.sample(hidden, controls, draws, forced), codes)
        found = compiled.sample(hidden, controls, draws, forced)
        assert torch.equal(found[:, :4], codes[:, :4]) and found.max() < 30
        agreed += int((found[:, 4] == codes[:, 4]).sum())
    assert agreed > 0.9 * 128
    greedy = compiled.sample(hidden, None, draws)
    assert torch.equal(greedy, compiled.sample(hidden, Controls.uniform(64), draws))


@torch.no_grad()
def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    depth = DepthTransformer(DepthConfig(8, 1, 2, 16, 8), 8, 1, 6, 7)
    with torch.no_grad():
        depth.heads.weight.mul_(3)
    compiled, count = CompiledDepth(depth.eval()), 4000
    hidden = torch.randn(1, 8).expand(count, 8)
    draws = uniform_draws(torch.arange(count), torch.zeros(count), 1)
    for top_k in (0, 3):
        shares = []
        for module in (depth, compiled):
            codes = module.sample(hidden, Controls.uniform(count, 1.0, top_k), draws)
            shares.append(torch.bincount(codes[:, 0], minlength=6) / count)
        torch.testing.assert_close(*shares, rtol=0, atol=0.02)
        assert top_k == 0 or int((shares[1] > 0).sum()) == 3


@torch.no_grad()
def test_blocks() -> None:
    exact = stirred(ConvNeXtBlocks(2, 20, 44, 5)).eval()
    compiled = CompiledBlocks(exact)
    expected_state, state = exact.init_state(2), compiled.init_state(2)
    for steps in (1, 4, 7):
        x = torch.randn(2, steps, 20)
        assert_near(compiled(x, state), exact(x, expected_state))
    for block, theirs in enumerate(expected_state):
        torch.testing.assert_close(state[0].context[:, block], theirs.context, rtol=0, atol=0.1)


def test_no_blocks_at_all_change_nothing() -> None:
    none = COMPILED[ConvNeXtBlocks](ConvNeXtBlocks(0, 20, 44, 5))
    x = torch.randn(2, 3, 20)
    assert none.init_state(2) == [] and torch.equal(none(x, []), x)


@torch.no_grad()
def test_a_quantizer_finds_the_same_entries() -> None:
    exact = ResidualVectorQuantizer(4, 50, 12)
    compiled = COMPILED[ResidualVectorQuantizer](exact)
    x = torch.randn(3, 6, 12)
    codes = compiled.encode(x)
    assert torch.equal(codes, exact.encode(x))
    assert torch.equal(compiled.decode(codes), exact.decode(codes))


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 6])
def test_a_convolution(groups: int) -> None:
    exact = CausalConv1d(6, 6, 4, stride=2 if groups == 1 else 1, groups=groups).eval()
    compiled = COMPILED[CausalConv1d](exact)
    x = torch.randn(2, 4, 6)
    found, expected = compiled(x, compiled.init_state(2)), exact(x, exact.init_state(2))
    assert_near(found, expected) if groups == 1 else torch.testing.assert_close(found, expected)


def test_weights_live_as_long_as_a_module_that_uses_them() -> None:
    linear = CompiledLinear(torch.randn(3, 4))
    x, number = torch.randn(2, 4), linear.kept.number
    expected, other = linear(x), copy.deepcopy(linear)
    del linear
    gc.collect()
    assert torch.equal(other(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        graph = torch.jit.trace(other, x)
    assert torch.equal(graph(x), expected)
    del other, graph
    gc.collect()
    assert number not in operations._KEPT


def test_a_step_is_compiled_where_the_processor_can(monkeypatch: pytest.MonkeyPatch) -> None:
    step = tiny_step(SMALL_SPEC)
    compiled = live_step(step, int8=True)
    monkeypatch.setattr(traced, "_is_avx2_supported", lambda: False)
    library = live_step(step, int8=True)
    kinds = [{type(m).__name__ for m in (*s.codec.modules(), *s.model.modules())} for s in (compiled, library)]  # type: ignore[attr-defined]
    assert {"CompiledLinear", "CompiledModel", "CompiledDepth", "CompiledEncoder", "CompiledDecoder"} <= kinds[0]
    assert "PackedLinear" not in kinds[0] and "PackedLinear" in kinds[1]
    assert not any(kind.startswith("Compiled") for kind in kinds[1])
    wav, outs = torch.randn(1, 1, SMALL_SPEC.frame_size), []
    for each in (step, compiled, library):
        outs.append(each(wav, each.init_state(1), same_controls(1, 0.0)).wav)
    assert all(out.shape == outs[0].shape for out in outs)
    assert isinstance(compiled.model, nn.Module)
