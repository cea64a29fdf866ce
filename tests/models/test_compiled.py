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
from s2s.models.depth import DepthConfig, DepthTransformer
from s2s.models.duplex import DuplexModel
from s2s.models.plan import Plan
from s2s.models.traced import live_step
from s2s.nn.conv import CausalConv1d, ConvNeXtBlocks
from s2s.nn.packed import for_live
from s2s.nn.sampling import Controls, uniform_draws
from s2s.nn.transformer import Transformer, TransformerConfig
from s2s.streams import dialogue_layout
from tests.tiny import SMALL_SPEC, same_controls, stirred, tiny_codec_config, tiny_model_config, tiny_step

if not _is_avx2_supported():
    pytest.skip("this processor has no AVX2", allow_module_level=True)

from s2s.codec.compiled import CompiledDecoder, CompiledEncoder
from s2s.kernels import operations
from s2s.models.compiled import COMPILED, CompiledBackbone, CompiledDepth, CompiledTalker
from s2s.nn.compiled import CompiledBlocks, CompiledLinear, CompiledTransformer


def assert_near(found: Tensor, exact: Tensor, share: float = 0.03) -> None:
    assert found.shape == exact.shape
    assert 0 < (found - exact).norm() < share * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 2), (2, 2), (6, 1)])
def test_a_transformer(num_heads: int, num_kv_heads: int) -> None:
    exact = stirred(Transformer(TransformerConfig(24, 3, num_heads, num_kv_heads, hidden=40, window=5))).eval()
    compiled = CompiledTransformer(exact)
    expected_state, state = exact.init_state(3), compiled.init_state(3)
    for at in range(12):  # beyond the window
        x = torch.randn(3, 1, 24)
        assert_near(compiled(x, state), exact(x, expected_state))
        assert state.position.tolist() == [at + 1] * 3
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
def test_what_a_model_thinks_and_how_it_talks(kind: str) -> None:
    exact = stirred(DuplexModel(replace(tiny_model_config(LAYOUT, talker=True), **KINDS[kind])))
    live = for_live(exact, True, COMPILED)
    thinks, talks = CompiledBackbone(live), CompiledTalker(live)
    expected_state, state = exact.init_state(3), live.init_state(3)
    assert exact.talker is not None and live.talker is not None
    expected_talk, talk = exact.talker.init_state(3), live.talker.init_state(3)
    sizes = [stream.table_size for stream in LAYOUT.streams for _ in stream.delays]
    for at in range(9):  # beyond the window
        grid = torch.stack([torch.randint(size, (3, 1)) for size in sizes], dim=1)
        grid[0] = torch.tensor(sizes)[:, None] - (2 if at % 2 else 1)  # START and PAD everywhere
        assert_near(thinks(grid, state), exact(grid, expected_state), 0.05)
        text, codes = (grid[:, LAYOUT.rows(name)] for name in ("agent_text", "agent"))
        assert_near(talks(text[:, 0], codes, talk.layers), exact.talk(text[:, 0], codes, expected_talk), 0.05)
        assert state.position.tolist() == talk.layers.position.tolist() == [at + 1] * 3


@torch.no_grad()
def test_a_plan() -> None:
    exact = stirred(Plan(24, 19, 4))
    compiled = COMPILED[Plan](exact)
    hidden, last, said = torch.randn(5, 24), torch.randn(5, 24), torch.tensor([0, 1, 2, 3, 3])
    found = compiled(hidden, said, last)
    assert_near(found - hidden, exact(hidden, said, last) - hidden, 0.05)
    assert not list(compiled.parameters())


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
    assert {"CompiledLinear", "CompiledBackbone", "CompiledDepth", "CompiledEncoder", "CompiledDecoder"} <= kinds[0]
    assert "PackedLinear" not in kinds[0] and "PackedLinear" in kinds[1]
    assert not any(kind.startswith("Compiled") for kind in kinds[1])
    wav, outs = torch.randn(1, 1, SMALL_SPEC.frame_size), []
    for each in (step, compiled, library):
        outs.append(each(wav, each.init_state(1), same_controls(1, 0.0)).wav)
    assert all(out.shape == outs[0].shape for out in outs)
    assert isinstance(compiled.model, nn.Module)
