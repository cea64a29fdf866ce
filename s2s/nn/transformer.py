"""A causal transformer: RMSNorm, windowed attention with rotary positions, gated MLP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.nn.attention import Attention, KVCache, Positions, attention_positions
from s2s.nn.norm import RMSNorm


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes; `window` counts the steps a query attends to, its own included."""

    width: int = 320
    num_layers: int = 6
    num_heads: int = 10
    num_kv_heads: int = 2
    hidden: int = 864
    window: int = 500
    rope_base: float = 10000.0
    dropout: float = 0.0


@dataclass
class TransformerState:
    """position: steps seen so far [B]; one ring cache per layer."""

    position: Tensor
    layers: list[KVCache]


class GatedMLP(nn.Module):
    """[..., D] -> [..., D]. Source: Shazeer 2020, "GLU Variants Improve Transformer" (SwiGLU)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class TransformerLayer(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config.width, config.num_heads, config.num_kv_heads, config.window)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = GatedMLP(config.width, config.hidden)
        # One draw per row and feature for all steps: a draw per number would take as long as the attention.
        self.dropout = nn.Dropout1d(config.dropout)

    def forward(self, x: Tensor, at: Positions, state: KVCache | None = None) -> Tensor:
        x = x + self._drop(self.attention(self.attention_norm(x), at, state))
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return self.dropout(x.transpose(1, 2)).transpose(1, 2) if self.training else x


class Transformer(nn.Module):
    """[B, S, D] -> [B, S, D], normalised at the end."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("out.weight", "down.weight"))
                std = config.width**-0.5 * ((2 * config.num_layers) ** -0.5 if last else 1.0)
                nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)

    def init_state(self, rows: int) -> TransformerState:
        position = torch.zeros(rows, dtype=torch.long, device=self.norm.weight.device)
        return TransformerState(position, [layer.attention.init_state(rows) for layer in self._layers()])

    def forward(
        self,
        x: Tensor,
        state: TransformerState | None = None,
        after: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    ) -> Tensor:
        """Args: after: what changes x [B, S, D] behind the first so many layers."""
        c = self.config
        head_dim = c.width // c.num_heads
        at = attention_positions(state.position if state else None, x, c.window, head_dim, c.rope_base)
        for i, layer in enumerate(self.layers):
            x = layer(x, at, state.layers[i] if state else None)
            if after and i + 1 in after:
                x = after[i + 1](x)
        if state is not None:
            state.position += x.shape[1]
        return self.norm(x)

    def _layers(self) -> list[TransformerLayer]:
        return [layer for layer in self.layers if isinstance(layer, TransformerLayer)]
