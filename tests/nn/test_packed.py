"""8-bit products: close to the exact ones, row by row, and only where they are asked for."""

import pytest
import torch
from torch import nn

from s2s.codec.rvq import ResidualVectorQuantizer
from s2s.nn.conv import CausalConv1d
from s2s.nn.packed import PackedLinear, for_live


@pytest.mark.parametrize("bias", [False, True])
def test_products_are_close(bias: bool) -> None:
    linear = nn.Linear(96, 40, bias=bias)
    x = torch.randn(1, 5, 96)
    packed = PackedLinear(linear.weight.detach(), linear.bias)(x)
    exact = linear(x)
    assert packed.shape == exact.shape
    assert 0 < (packed - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("bias", [False, True])
def test_rows_are_the_same_beside_any_others(bias: bool) -> None:
    packed = PackedLinear(torch.randn(40, 96), torch.randn(40) if bias else None)
    x = torch.randn(9, 2, 96) * torch.logspace(-4, 4, 9)[:, None, None]
    x[4] = 0
    together = packed(x)
    assert together.shape == (9, 2, 40) and together.isfinite().all()
    for row in range(9):
        for other in range(9):
            assert torch.equal(packed(x[[other, row]])[1], together[row])


def test_a_lone_row_is_rounded_by_the_library_and_as_closely() -> None:
    linear = nn.Linear(96, 40)
    packed = PackedLinear(linear.weight.detach(), linear.bias)
    x = torch.randn(2, 5, 96)
    for found in (packed(x[:1]), packed(x)[:1]):
        assert 0 < (found - linear(x[:1])).norm() < 0.02 * linear(x[:1]).norm()


def test_weights_of_8_bits_are_kept_as_they_are() -> None:
    integers = torch.randint(-127, 128, (6, 32)).float()
    integers[:, 0] = 127
    weight = integers * torch.rand(6, 1)
    picked = PackedLinear(weight, None)(torch.eye(32)[None])[0].T
    torch.testing.assert_close(picked, weight, rtol=1e-5, atol=1e-6)


def test_a_copy_for_live_use_changes_nothing_but_linear_maps() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ModuleDict({"x": nn.Linear(6, 2)})["x"])
    live = for_live(module, int8=True)
    assert [type(child) for child in live] == [PackedLinear, nn.LayerNorm, PackedLinear]
    assert [type(child) for child in module] == [nn.Linear, nn.LayerNorm, nn.Linear]
    same = for_live(module, int8=False)
    x = torch.randn(3, 4)
    assert torch.equal(same(x), module(x)) and same is not module
    assert not same.training


def test_modules_take_part_in_their_own_way() -> None:
    quantizer = ResidualVectorQuantizer(3, 16, 8).eval()
    holder = nn.ModuleDict({"quantizer": quantizer, "dense": CausalConv1d(16, 8, 4, stride=2)})
    live = for_live(holder, int8=True)
    x = torch.randn(2, 5, 8)
    assert len(live["quantizer"].searched) == 3 and quantizer.searched is None  # type: ignore[arg-type]
    codes = quantizer.encode(x)
    assert torch.equal(live["quantizer"].encode(x), codes)  # type: ignore[operator]
    alone = quantizer.for_live(int8=True)
    quantizer.codebooks.neg_()
    assert torch.equal(alone.encode(x), codes) and not torch.equal(quantizer.encode(x), codes), "it no longer follows"
    wav = torch.randn(1, 4, 16)
    assert 0 < (live["dense"](wav) - holder["dense"](wav)).norm() < 0.03 * holder["dense"](wav).norm()


def test_a_build_without_8_bit_products_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(torch.backends.quantized), "engine", "none", raising=False)
    with pytest.raises(ValueError, match="no 8-bit products"):
        for_live(nn.Linear(2, 2), int8=True)


def test_a_library_that_cannot_take_rows_together_takes_them_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(torch.backends.quantized), "engine", "qnnpack", raising=False)
    packed = PackedLinear(torch.randn(8, 16), None)
    monkeypatch.undo()
    x = torch.randn(3, 2, 16)
    assert torch.equal(packed(x), torch.cat([packed(row) for row in x.split(1)]))
