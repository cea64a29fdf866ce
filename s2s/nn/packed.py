"""Linear maps with weights of 8 bits, for the live step on a CPU: a quarter of the bytes to read at every step.

These are the library's, for processors without AVX2; with it, `s2s.nn.compiled` takes their place.

Weights are rounded per output row once. Inputs are rounded per call and so that rows never depend on each other: those
of a lone conversation between the smallest and the largest value, by the library, which costs least; those of many,
vector by vector, between plus and minus its largest magnitude. So many share one product, which reads the weights once,
and a conversation gives the same bits beside any others, but not the bits that it gives alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.cpu import _is_vnni_supported

M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """An `nn.Linear` on 8-bit weights; `weight` is empty and only tells the dtype and device of states."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        # The largest weight of a row becomes 127, as in checkpoints of 8 bits: reading those loses nothing more.
        scale = weight.abs().amax(dim=1).clamp(min=1e-12).double() / 127
        rounded = torch.quantize_per_channel(weight, scale, torch.zeros_like(scale, dtype=torch.long), 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(rounded, bias)
        # Where inputs are scaled row by row, the bias can only be added after the scales are back.
        self.bare = self.packed if bias is None else torch.ops.quantized.linear_prepack(rounded, None)
        self.register_buffer("bias", None if bias is None else bias.detach().clone(), persistent=False)
        self.reduce_range = not _is_vnni_supported()  # without VNNI the products of 8 bits overflow
        # Only this library of products takes inputs that are scaled already.
        self.together = torch.backends.quantized.engine in ("x86", "fbgemm")
        self.zero = 64 if self.reduce_range else 128
        self.register_buffer("weight", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        if len(x) == 1:
            y = torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
            return y
        if not self.together:
            return torch.cat([self(row) for row in x.split(1)])
        largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-12)
        step = 1 / (self.zero - 1)
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x / largest, step, self.zero, self.bare)
        y = y * largest
        return y if self.bias is None else y + self.bias


Kernels = Mapping[type[nn.Module], Callable[[Any], nn.Module]]
"""What makes modules for inference only out of modules of these types."""


def for_live(module: M, int8: bool, kernels: Kernels | None = None) -> M:
    """A copy of a module for inference only, which no longer follows changes of its weights.

    With `int8` (CPU only) its linear maps are packed. Modules take part in another way by `kernels`, or by a method
    `for_live(int8) -> nn.Module` of their own.
    """
    if int8 and torch.backends.quantized.engine == "none":
        raise ValueError("this build of torch has no 8-bit products")
    module = copy.deepcopy(module).eval()
    _convert_children(module, int8, kernels or {})
    return module


@torch.no_grad()
def _convert_children(module: nn.Module, int8: bool, kernels: Kernels) -> None:
    for name, child in list(module.named_children()):
        if make := kernels.get(type(child)):
            setattr(module, name, make(child))
        elif callable(convert := getattr(child, "for_live", None)):
            setattr(module, name, convert(int8))
        elif type(child) is nn.Linear and int8:
            setattr(module, name, PackedLinear(child.weight.detach(), child.bias))
        else:
            _convert_children(child, int8, kernels)
