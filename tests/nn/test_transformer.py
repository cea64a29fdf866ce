"""The transformer: windows, shared key/value heads and positions. Its streaming is tested by the contract."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.nn.attention import Attention, attend_by_products, attention_positions, rotate, rotations
from s2s.nn.transformer import Transformer, TransformerConfig
from tests.tiny import stirred


def reference(attention: Attention, x: Tensor, base: float) -> Tensor:
    """Attention of one sequence [S, D], query by query, as the equations say it."""
    heads, groups, size = attention.num_heads, attention.num_kv_heads, attention.head_dim
    q, k, v = (attention.qkv(x)).split([heads * size, groups * size, groups * size], dim=-1)
    steps, outputs = len(x), torch.zeros(len(x), heads, size, dtype=x.dtype)

    def turned(vector: Tensor, position: int) -> Tensor:
        half = size // 2
        out = vector.clone()
        for e in range(half):
            angle = position * base ** (-2 * e / size)
            a, b = vector[e], vector[e + half]
            out[e] = a * math.cos(angle) - b * math.sin(angle)
            out[e + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    for s in range(steps):
        for h in range(heads):
            g = h // (heads // groups)
            query = turned(q[s, h * size : (h + 1) * size], s)
            seen = range(max(0, s - attention.window + 1), s + 1)
            keys = torch.stack([turned(k[t, g * size : (g + 1) * size], t) for t in seen])
            values = torch.stack([v[t, g * size : (g + 1) * size] for t in seen])
            outputs[s, h] = (keys @ query / size**0.5).softmax(dim=0) @ values
    return attention.out(outputs.flatten(1))


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(1, 1), (4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("window", [1, 3, 20])
def test_attention_follows_its_equations(num_heads: int, num_kv_heads: int, window: int) -> None:
    attention = stirred(Attention(16, num_heads, num_kv_heads, window)).double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    at = attention_positions(None, x, window, attention.head_dim, base=100.0)
    with torch.no_grad():
        expected = torch.stack([reference(attention, row, 100.0) for row in x])
        torch.testing.assert_close(attention(x, at), expected)


def test_a_window_reaches_exactly_as_far_as_it_says() -> None:
    window, layers = 4, 2
    model = stirred(Transformer(TransformerConfig(8, layers, 2, 1, 16, window))).double()
    x = torch.randn(1, 15, 8, dtype=torch.float64, requires_grad=True)
    model(x)[0, -1].square().sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().amax(dim=-1) > 0
    assert seen.tolist() == [False] * 8 + [True] * (layers * (window - 1) + 1)


def test_rotations_keep_lengths_and_depend_on_distance() -> None:
    x, y = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64)

    def turned(vector: Tensor, position: int) -> Tensor:
        return rotate(vector, *rotations(torch.tensor([[position]]), 6, 50.0, torch.float64))

    torch.testing.assert_close(turned(x, 9).norm(), x.norm())
    near, far = (turned(x, p) * turned(y, p - 3) for p in (5, 100_000))
    torch.testing.assert_close(near.sum(), far.sum())
    assert abs(float((turned(x, 5) * turned(y, 1)).sum() - near.sum())) > 1e-3


def test_positions_stay_sharp_after_hours() -> None:
    """Ten hours of 40 ms steps: a float32 product of position and frequency is off by per cents of a turn there."""
    position = torch.tensor([[900_001]])
    cos, sin = rotations(position, 64, 10000.0, torch.float32)
    angle = 900_001.0 * 10000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    torch.testing.assert_close(cos[0, 0, 0].double(), angle.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sin[0, 0, 0].double(), angle.sin(), rtol=0, atol=1e-6)


def test_each_row_of_a_state_has_its_own_position() -> None:
    model = stirred(Transformer(TransformerConfig(8, 1, 2, 1, 16, window=4))).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    with torch.no_grad():
        state = model.init_state(2)
        model(x[:, :3], state)
        for leaf in (state.position, state.layers[0].keys, state.layers[0].values):
            leaf[1] = 0
        y = model(x[:, 3:], state)
        torch.testing.assert_close(y[0], model(x)[0, 3:])
        torch.testing.assert_close(y[1], model(x[:, 3:])[1])
    assert state.position.tolist() == [6, 3]


def test_dropout_is_for_training_only() -> None:
    model = stirred(Transformer(TransformerConfig(8, 1, 2, 1, 16, 4, dropout=0.5)))
    x = torch.randn(1, 5, 8)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("sizes", [(10, 4, 2), (12, 4, 3), (12, 4, 4)])
def test_head_counts_that_do_not_fit_are_refused(sizes: tuple[int, int, int]) -> None:
    width, num_heads, num_kv_heads = sizes
    with pytest.raises(ValueError, match=f"width {width} must be an even multiple of num_heads {num_heads}"):
        Attention(width, num_heads, num_kv_heads, 5)


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 0, allowed is 1"):
        Attention(8, 2, 1, 0)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
def test_attention_by_products_is_attention(heads: int, groups: int) -> None:
    torch.manual_seed(heads)
    shapes = ((2, 9, heads, 8), (2, 9, groups, 8), (2, 9, groups, 8))
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=True)
    found = attend_by_products(q, k, v)
    assert torch.allclose(found, expected.transpose(1, 2).flatten(2))
    weight = torch.randn_like(found)
    gradients = [
        torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (found, expected.transpose(1, 2).flatten(2))
    ]
    assert all(torch.allclose(a, b) for a, b in zip(*gradients))
