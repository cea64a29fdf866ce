"""Compiled modules beside those that they are made of, and how long their weights live."""

import copy
import gc
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.cpu import _is_avx2_supported

from s2s.codec.rvq import ResidualVectorQuantizer
from s2s.models import traced
from s2s.models.depth import DepthConfig, DepthTransformer
from s2s.models.traced import live_step
from s2s.nn.conv import CausalConv1d, ConvNeXtBlocks
from s2s.nn.sampling import Controls, uniform_draws
from s2s.nn.transformer import Transformer, TransformerConfig
from tests.tiny import SMALL_SPEC, same_controls, stirred, tiny_step

if not _is_avx2_supported():
    pytest.skip("this processor has no AVX2", allow_module_level=True)

from s2s.kernels import operations
from s2s.models.compiled import COMPILED, CompiledBlocks, CompiledDepth, CompiledLinear, CompiledTransformer


def assert_near(found: Tensor, exact: Tensor, share: float = 0.03) -> None:
    assert found.shape == exact.shape
    assert 0 < (found - exact).norm() < share * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 2), (2, 2), (6, 1)])
def test_a_transformer(num_heads: int, num_kv_heads: int) -> None:
    exact = stirred(Transformer(TransformerConfig(24, 3, num_heads, num_kv_heads, hidden=40, window=5))).eval()
    compiled = CompiledTransformer(exact)
    expected_state, state, noted = exact.init_state(3), compiled.init_state(3), []
    after = {2: lambda x: noted.append(x) or 2 * x}  # type: ignore[func-returns-value]
    for at in range(12):  # beyond the window
        x = torch.randn(3, 1, 24)
        assert_near(compiled(x, state, after), exact(x, expected_state, after))
        assert state.position.tolist() == [at + 1] * 3
        assert_near(*noted[-2:])
    for ours, theirs in zip(state.layers, expected_state.layers, strict=True):
        assert_near(ours.keys, theirs.keys)
        assert_near(ours.values, theirs.values)


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
    for ours, theirs in zip(state, expected_state, strict=True):
        torch.testing.assert_close(ours.context, theirs.context, rtol=0, atol=0.1)


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
    assert {"CompiledLinear", "CompiledTransformer", "CompiledDepth", "CompiledBlocks"} <= kinds[0]
    assert "PackedLinear" not in kinds[0] and "PackedLinear" in kinds[1]
    assert not any(kind.startswith("Compiled") for kind in kinds[1])
    wav, outs = torch.randn(1, 1, SMALL_SPEC.frame_size), []
    for each in (step, compiled, library):
        outs.append(each(wav, each.init_state(1), same_controls(1, 0.0)).wav)
    assert all(out.shape == outs[0].shape for out in outs)
    assert isinstance(compiled.model, nn.Module)
