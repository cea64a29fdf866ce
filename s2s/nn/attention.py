"""Windowed grouped-query attention with rotary positions and a ring cache per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass
class KVCache:
    """The last `window` keys and values of each row, [B, G, W, E]; position p lies in slot p mod W.

    A step reads all of them, each head's from its first to its last, so that is how they lie. It writes its own slot
    first, whose older content has just left the window.
    """

    REWRITTEN: ClassVar[bool] = True
    keys: Tensor
    values: Tensor


@dataclass
class Positions:
    """What all layers share about where the queries are, computed once per call.

    now: positions of the queries [B, S]; cos, sin: rotations [B, S, 1, E / 2]; mask: what each query attends to,
    True = attended, [B, 1, S, keys], or None for plain causal attention; slots: ring slots to write [B, S'].
    """

    now: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    slots: Tensor | None


def rotations(positions: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, positions [B, S] -> two of [B, S, 1, E / 2].

    Angles are computed in float64: after an hour of steps float32 would be off by a visible part of a turn.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64) / head_dim
    angles = positions[..., None, None].double() * base**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BSHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (e, e + E/2) of queries or keys by their position's angles."""
    first, second = x_BSHE.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """H query heads share G key/value heads; a query attends to at most `window` steps, its own included."""

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, window: int):
        super().__init__()
        if width % num_heads or num_heads % num_kv_heads or (width // num_heads) % 2:
            raise ValueError(
                f"width {width} must be an even multiple of num_heads {num_heads}, "
                f"and num_heads a multiple of num_kv_heads {num_kv_heads}"
            )
        if window < 1:
            raise ValueError(f"window is {window}, allowed is 1 (a step sees itself) and above")
        self.num_heads, self.num_kv_heads, self.window = num_heads, num_kv_heads, window
        self.head_dim = width // num_heads
        self.qkv = nn.Linear(width, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def init_state(self, rows: int) -> KVCache:
        weight, shape = self.qkv.weight, (rows, self.num_kv_heads, self.window, self.head_dim)
        return KVCache(*(torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2)))

    def forward(self, x: Tensor, at: Positions, state: KVCache | None = None) -> Tensor:
        """x [B, S, D] -> [B, S, D]; `at` comes from `attention_positions` for the same state."""
        heads, groups = self.num_heads, self.num_kv_heads
        qk, v_BSGE = self.qkv(x).unflatten(-1, (-1, self.head_dim)).split([heads + groups, groups], dim=2)
        q_BSHE, k_BSGE = rotate(qk, at.cos, at.sin).split([heads, groups], dim=2)
        k_BGKE, v_BGKE = k_BSGE.transpose(1, 2), v_BSGE.transpose(1, 2)
        if state is not None:
            k_BGKE, v_BGKE = _through_cache(k_BGKE, state.keys, at), _through_cache(v_BGKE, state.values, at)
        if state is not None and x.shape[1] == 1:
            return self.out(self._attend_one(q_BSHE[:, 0], k_BGKE, v_BGKE, at.mask))
        if at.mask is None and q_BSHE.requires_grad and q_BSHE.device.type == "cpu":
            return self.out(attend_by_products(q_BSHE, k_BSGE, v_BSGE))
        grouped = heads != groups
        if grouped and at.mask is not None and q_BSHE.device.type == "cuda":
            # The fused attentions of a GPU take groups or a mask. Given both, all scores are kept in float32.
            k_BGKE, v_BGKE = (x.repeat_interleave(heads // groups, dim=1) for x in (k_BGKE, v_BGKE))
            grouped = False
        y = F.scaled_dot_product_attention(
            q_BSHE.transpose(1, 2),
            k_BGKE,
            v_BGKE,
            attn_mask=at.mask,
            is_causal=at.mask is None,
            enable_gqa=grouped,
        )
        return self.out(rearrange(y, "b h s e -> b s (h e)"))

    def _attend_one(self, q_BHE: Tensor, k_BGWE: Tensor, v_BGWE: Tensor, mask: Tensor | None) -> Tensor:
        """One step, -> [B, 1, H * E]: the query heads of a group are rows of one product, so no keys are repeated."""
        q_BGQE = q_BHE.unflatten(1, (self.num_kv_heads, -1))
        y = F.scaled_dot_product_attention(q_BGQE, k_BGWE, v_BGWE, attn_mask=mask)
        return y.flatten(1)[:, None]


def attend_by_products(q_BSHE: Tensor, k_BSGE: Tensor, v_BSGE: Tensor) -> Tensor:
    """Causal attention of whole sequences as two products, -> [B, S, H * E].

    For training on a CPU: there the gradient of the fused attention takes five times as long in bfloat16. It keeps all
    scores, [B, H, S, S], which sequences of a few hundred steps can afford.
    """
    batch, length, heads, _ = q_BSHE.shape
    q = rearrange(q_BSHE * q_BSHE.shape[-1] ** -0.5, "b s (g q) e -> (b g) (q s) e", g=k_BSGE.shape[2])
    k, v = (rearrange(x, "b s g e -> (b g) s e") for x in (k_BSGE, v_BSGE))
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
    later = torch.full((length, length), float("-inf"), dtype=scores.dtype).triu(1)
    weights = (scores + later).softmax(dim=-1).view(len(q), -1, length)
    return rearrange(torch.bmm(weights, v), "(b g) (q s) e -> b s (g q e)", b=batch, s=length)


def attention_positions(position: Tensor | None, x: Tensor, window: int, head_dim: int, base: float) -> Positions:
    """Where S new steps are, given how many each row has seen.

    Args:
        position: steps seen so far [B]; None for whole sequences that start at 0.
        x: the input [B, S, D]; only its shape, dtype and device matter.
    """
    length = x.shape[1]
    steps = torch.arange(length, device=x.device)
    if position is None:
        now = steps[None]
        cos, sin = rotations(now, head_dim, base, x.dtype)
        if length <= window:
            return Positions(now, cos, sin, None, None)
        distance = steps[:, None] - steps[None]
        return Positions(now, cos, sin, ((distance >= 0) & (distance < window))[None, None], None)
    now = position[:, None] + steps
    cos, sin = rotations(now, head_dim, base, x.dtype)
    slot = torch.arange(window, device=x.device)
    # One step is written before the ring is read: it takes the slot of the only step that just left the window. Longer
    # chunks are read beside the ring and written afterwards, since they would overwrite keys their first steps need.
    last = now if length == 1 else now[:, :1] - 1
    held = last - (last - slot) % window  # the newest position up to `last` that falls into each slot; negative: none
    mask = (held[:, None] >= 0) & (now[..., None] - held[:, None] < window)  # [B, S, W]
    if length > 1:
        distance = steps[:, None] - steps[None]
        inside = ((distance >= 0) & (distance < window)).expand(len(now), -1, -1)
        mask = torch.cat([mask, inside], dim=-1)
    return Positions(now, cos, sin, mask[:, None], now[:, -window:] % window)


def _through_cache(new: Tensor, ring: Tensor, at: Positions) -> Tensor:
    """Store new keys or values [B, G, S, E] and return all that may be attended to."""
    assert at.slots is not None
    kept = new[:, :, -at.slots.shape[1] :]
    index = at.slots[:, None, :, None].expand_as(kept)
    if new.shape[2] > 1:
        attended = torch.cat([ring, new], dim=2)
    elif new.requires_grad:
        attended = ring.scatter(2, index, new)  # a copy: the ring itself carries no gradient
    else:
        attended = ring
    ring.scatter_(2, index, kept.detach())
    return attended
