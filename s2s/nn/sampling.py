"""Per-row sampling: a row's draw depends on its own logits, seed and position, never on its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MIX_1, _MIX_2, _GOLDEN = -4658895280553007687, -7723592293110705685, -7046029254386353131

MAX_TOP_K = 256
"""The largest top k; a bound that is known in advance keeps the shapes of a step fixed."""


@dataclass
class Controls:
    """How each row samples: temperature [B] (0 = the most likely token), top_k [B] (0 = all), seed [B].

    Tokens as likely as the last of the top k take part too.
    """

    temperature: Tensor
    top_k: Tensor
    seed: Tensor

    @staticmethod
    def uniform(rows: int, temperature: float = 0.0, top_k: int = 50, seed: int = 0, device: str = "cpu") -> Controls:
        """The same settings for all rows; row r gets seed + r."""
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}, allowed is 0 (greedy) and above")
        if not 0 <= top_k <= MAX_TOP_K:
            raise ValueError(f"top_k is {top_k}, allowed is 0 (all tokens) and 1 to {MAX_TOP_K}")
        return Controls(
            torch.full((rows,), float(temperature), device=device),
            torch.full((rows,), int(top_k), device=device),
            torch.arange(rows, device=device) + seed,
        )


def uniform_draws(seed: Tensor, position: Tensor, count: int) -> Tensor:
    """Numbers in (0, 1) that are a function of (seed [B], position [B], index) alone, [B, count] float64.

    A counter hashed with the finaliser of SplitMix64 (Steele et al. 2014): no generator state to keep or to move.
    """
    index = torch.arange(count, device=seed.device)
    x = _mix(seed.long()[:, None] * _GOLDEN + position.long()[:, None])
    x = _mix(x * _GOLDEN + index)
    return ((x >> 11) & ((1 << 53) - 1)).double() / (1 << 53) + 2.0**-54


def sample(logits: Tensor, controls: Controls | None, draw: Tensor) -> Tensor:
    """One token per row.

    Args:
        logits: [B, V].
        controls: per row settings; None: every row takes its most likely token.
        draw: numbers in (0, 1), [B].

    Returns:
        ids [B].
    """
    if controls is None:
        return logits.argmax(dim=-1)
    logits = logits.float()
    # Candidates keep their place in the vocabulary: to rank the likeliest few is much cheaper than to sort them all.
    likeliest = logits.topk(min(MAX_TOP_K, logits.shape[-1])).values
    last = (controls.top_k - 1).clamp(0, likeliest.shape[-1] - 1)
    least = likeliest.gather(1, last.unsqueeze(1)).masked_fill((controls.top_k < 1).unsqueeze(1), float("-inf"))
    scaled = logits.masked_fill(logits < least, float("-inf")) / controls.temperature.clamp(min=1e-4).unsqueeze(1)
    cumulative = scaled.softmax(dim=-1).double().cumsum(dim=-1)
    # The last candidate's sum may round to less than one; the draw is scaled so that it always falls inside.
    chosen = (cumulative < draw.unsqueeze(1) * cumulative.narrow(-1, -1, 1)).sum(dim=-1)
    return torch.where(controls.temperature > 0, chosen, logits.argmax(dim=-1))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64: torch's own one copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
