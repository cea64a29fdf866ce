"""Linear maps with weights of 8 bits, for the live step on a CPU: a quarter of the bytes to read at every step.

Weights are rounded per output row once; inputs are rounded per call, to 8 bits between the smallest and the largest
value of a row, so that rows never depend on each other.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """An `nn.Linear` on 8-bit weights; `weight` is empty and only tells the dtype and device of states."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        # The largest weight of a row becomes 127, as in checkpoints of 8 bits: reading those loses nothing more.
        scale = weight.abs().amax(dim=1).clamp(min=1e-12).double() / 127
        rounded = torch.quantize_per_channel(weight, scale, torch.zeros_like(scale, dtype=torch.long), 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(rounded, bias)
        self.reduce_range = not torch.cpu._is_vnni_supported()  # without VNNI the products of 8 bits overflow
        self.register_buffer("weight", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return self._product(x)
        return torch.cat([self._product(row) for row in x.split(1)])

    def _product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
        return y


def packed(module: M) -> M:
    """A copy of a module for inference on the CPU whose linear maps are packed; the others stay as they are.

    Classes with weights of another form take part by a method `packed() -> nn.Module`.
    """
    module = copy.deepcopy(module).eval()
    _pack_children(module)
    return module


def can_pack() -> bool:
    """Whether this build of torch has 8-bit products."""
    return torch.backends.quantized.engine != "none"


@torch.no_grad()
def _pack_children(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child.weight.detach(), child.bias))
        elif callable(pack := getattr(child, "packed", None)):
            setattr(module, name, pack())
        else:
            _pack_children(child)
