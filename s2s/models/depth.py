"""The depth transformer: the codebooks of one step, one after the other, given what the backbone thinks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.nn.norm import RMSNorm
from s2s.nn.packed import PackedLinear
from s2s.nn.sampling import Controls, sample


@dataclass(frozen=True)
class DepthConfig:
    """Sizes; with `per_step_weights` every codebook has layers of its own, at K times the parameters."""

    width: int = 192
    num_layers: int = 2
    num_heads: int = 6
    hidden: int = 512
    code_width: int = 64
    per_step_weights: bool = False

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"depth width {self.width} is not a multiple of num_heads {self.num_heads}")


class SteppedLinear(nn.Module):
    """A linear map with weights of its own for each of K steps, or one that all steps share."""

    def __init__(self, in_features: int, out_features: int, num_steps: int, std: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_steps, out_features, in_features))
        nn.init.trunc_normal_(self.weight, std=std, a=-3 * std, b=3 * std)

    def forward(self, x: Tensor, step: int | None = None) -> Tensor:
        """x [M, K, in] -> [M, K, out], or for one step x [M, in] -> [M, out]."""
        if len(self.weight) == 1:
            return F.linear(x, self.weight[0])
        if step is not None:
            return F.linear(x, self.weight[step])
        return torch.einsum("mki,koi->mko", x, self.weight)

    def for_live(self, int8: bool) -> nn.Module:
        return PackedSteppedLinear(self.weight.detach()) if int8 else self


class PackedSteppedLinear(nn.Module):
    """A `SteppedLinear` on 8-bit weights, for the live step."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.maps = nn.ModuleList(PackedLinear(matrix, None) for matrix in weight)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """x [M, in] -> [M, out]."""
        y: Tensor = self.maps[step if len(self.maps) > 1 else 0](x)
        return y


class DepthLayer(nn.Module):
    """Causal attention over at most K steps and a gated MLP."""

    def __init__(self, config: DepthConfig, num_codebooks: int):
        super().__init__()
        c = config
        steps, std = num_codebooks if c.per_step_weights else 1, c.width**-0.5
        small = std * (2 * c.num_layers) ** -0.5
        self.num_heads = c.num_heads
        self.attention_norm = RMSNorm(c.width)
        self.qkv = SteppedLinear(c.width, 3 * c.width, steps, std)
        self.out = SteppedLinear(c.width, c.width, steps, small)
        self.mlp_norm = RMSNorm(c.width)
        self.gate_up = SteppedLinear(c.width, 2 * c.hidden, steps, std)
        self.down = SteppedLinear(c.hidden, c.width, steps, small)

    def forward(self, x: Tensor) -> Tensor:
        """All steps at once, [M, K, width]."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)

    def step(self, x: Tensor, step: int, past: Tensor) -> Tensor:
        """One step, [B, width]; past [2, B, H, K, E] holds keys and values of the steps before, then this one's too."""
        q, k, v = self.qkv(self.attention_norm(x), step).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        past[0, :, :, step] = k
        past[1, :, :, step] = v
        if step:
            keys, values = past[:, :, :, : step + 1].unbind(0)
            v = F.scaled_dot_product_attention(q.unsqueeze(2), keys, values)
        x = x + self.out(v.flatten(1), step)
        gate, up = self.gate_up(self.mlp_norm(x), step).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up, step)


class DepthTransformer(nn.Module):
    """p(codes of a step | hidden), codebook by codebook. Source: Lee et al. 2022, "RQ-Transformer"."""

    def __init__(self, config: DepthConfig, hidden_width: int, num_codebooks: int, codebook_size: int, table_size: int):
        super().__init__()
        self.config, self.num_codebooks, self.table_size = config, num_codebooks, table_size
        width = config.width
        self.condition = nn.Linear(hidden_width, width, bias=False)
        self.place = nn.Parameter(torch.zeros(num_codebooks, width))
        # One table for all codebooks but the last, whose token nothing here looks at.
        self.codes = nn.Embedding(max(1, num_codebooks - 1) * table_size, config.code_width)
        self.from_code = SteppedLinear(config.code_width, width, max(1, num_codebooks - 1), config.code_width**-0.5)
        self.layers = nn.ModuleList(DepthLayer(config, num_codebooks) for _ in range(config.num_layers))
        self.norm = RMSNorm(width)
        self.heads = SteppedLinear(width, codebook_size, num_codebooks, width**-0.5)

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Teacher forcing: hidden [M, D], codes [M, K] -> logits [M, K, V]."""
        if list(codes.shape) != [len(hidden), self.num_codebooks]:
            raise ValueError(f"codes have the shape {list(codes.shape)}, expected {[len(hidden), self.num_codebooks]}")
        x = self.condition(hidden)[:, None] + self.place
        if self.num_codebooks > 1:
            offsets = torch.arange(self.num_codebooks - 1, device=codes.device) * self.table_size
            x = torch.cat([x[:, :1], x[:, 1:] + self.from_code(self.codes(codes[:, :-1] + offsets))], dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.heads(self.norm(x))

    def sample(self, hidden: Tensor, controls: Controls | None, draws: Tensor, forced: Tensor | None = None) -> Tensor:
        """Live: hidden [B, D], draws [B, K] -> codes [B, K].

        Args:
            forced: ids to take instead of sampling where they are not negative [B, K].
        """
        heads = self.config.num_heads
        shape = (len(self.layers), 2, len(hidden), heads, self.num_codebooks, self.config.width // heads)
        cache = hidden.new_empty(shape)
        inputs = (self.condition(hidden)[:, None] + self.place).unbind(1)
        codes: list[Tensor] = []
        for k, draw in enumerate(draws.unbind(1)):
            x = inputs[k]
            if k:
                x = x + self.from_code(self.codes(codes[-1] + (k - 1) * self.table_size), k - 1)
            for layer, past in zip(self.layers, cache.unbind(0), strict=True):
                assert isinstance(layer, DepthLayer)
                x = layer.step(x, k, past)
            code = sample(self.heads(self.norm(x), k), controls, draw)
            codes.append(code if forced is None else torch.where(forced[:, k] >= 0, forced[:, k], code))
        return torch.stack(codes, dim=1)
