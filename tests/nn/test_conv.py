"""Causal convolutions against the sums that define them. Their streaming is tested by the contract."""

from __future__ import annotations

import pytest
import torch
from torch.cpu import _is_vnni_supported

from s2s.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvNeXtBlock
from tests.tiny import stirred


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_conv_is_the_sum_over_its_past(stride: int, dilation: int) -> None:
    conv = stirred(CausalConv1d(2, 3, 4, stride, dilation)).double()
    x = torch.randn(1, 5 * stride, 2, dtype=torch.float64)
    y = conv(x)
    weight, bias = conv.conv.weight, conv.conv.bias
    assert bias is not None and y.shape == (1, 5, 3)
    for t in range(5):
        newest = (t + 1) * stride - 1
        expected = bias.clone()
        for tap in range(4):
            at = newest - tap * dilation
            if at >= 0:
                expected = expected + weight[:, :, 3 - tap] @ x[0, at]
        torch.testing.assert_close(y[0, t], expected)


@pytest.mark.parametrize(("kernel_size", "stride"), [(2, 2), (4, 2), (5, 1), (7, 3)])
def test_transposed_conv_adds_each_input_from_its_own_time_on(kernel_size: int, stride: int) -> None:
    conv = stirred(CausalConvTranspose1d(2, 3, kernel_size, stride)).double()
    x = torch.randn(1, 5, 2, dtype=torch.float64)
    expected = torch.zeros(5 * stride + kernel_size, 3, dtype=torch.float64)
    for t in range(5):
        for tap in range(kernel_size):
            expected[t * stride + tap] += x[0, t] @ conv.conv.weight[:, :, tap]
    torch.testing.assert_close(conv(x)[0], expected[: 5 * stride] + conv.bias)


def test_convnext_with_scale_zero_is_the_identity() -> None:
    block = ConvNeXtBlock(4, 8, scale=0.0)
    x = torch.randn(2, 6, 4)
    assert torch.equal(block(x), x)
    assert not torch.equal(ConvNeXtBlock(4, 8)(x), x)


@pytest.mark.parametrize("rows", [1, 3])
def test_convnext_for_live_use_is_what_it_was(rows: int) -> None:
    block = stirred(ConvNeXtBlock(16, 64, kernel_size=3))
    assert block.scale is not None
    with torch.no_grad():
        block.scale.copy_(torch.linspace(-0.5, 0.5, 16))
    x = torch.randn(rows, 5, 16)
    state, live_state = block.init_state(rows), block.init_state(rows)
    exact, packed = block.for_live(int8=False), block.for_live(int8=True)
    assert exact.scale is not None and packed.scale is None
    assert torch.equal(exact(x, state), block(x))
    said, expected = packed(x, live_state), block(x)
    assert not torch.equal(said, expected)
    share = 0.02 if _is_vnni_supported() else 0.04  # without it, inputs are rounded to 7 bits
    assert (said - expected).norm() < share * (expected - x).norm()


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size 3 leaves gaps at stride 4"):
        CausalConv1d(1, 1, 3, stride=4)
    with pytest.raises(ValueError, match="kernel_size 3 leaves gaps at stride 4"):
        CausalConvTranspose1d(1, 1, 3, stride=4)
    with pytest.raises(ValueError, match="5 inputs are not a multiple of the stride 2"):
        CausalConv1d(1, 1, 4, stride=2)(torch.zeros(1, 5, 1))
