"""Causal convolutions with explicit state.

Tensors are [B, T, C] (time before channels): the products over channels, nearly all of the work, then need no
transposes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.nn.packed import PackedLinear

_FEW = 8  # outputs up to which a convolution is computed as a plain product


@dataclass
class ConvState:
    """The inputs that later outputs still look at: context [B, left, C_in]."""

    context: Tensor


class CausalConv1d(nn.Module):
    """A convolution whose output t sees inputs up to (t + 1) * stride - 1 and nothing later.

    [B, T, C_in] -> [B, T / stride, C_out]; T is a multiple of stride. Before the first input there are zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        self.left = (kernel_size - 1) * dilation + 1 - stride
        if self.left < 0:
            raise ValueError(
                f"kernel_size {kernel_size} leaves gaps at stride {stride}: it must be at least the stride"
            )
        self.stride, self.in_channels = stride, in_channels
        self.product: nn.Module | None = None  # of a dense convolution's windows, on 8-bit weights
        self.taps: Tensor | None = None  # weights of a depthwise convolution [kernel, C], where they no longer change
        self.conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups, bias=bias
        )

    def init_state(self, rows: int) -> ConvState:
        weight = self.conv.weight
        return ConvState(torch.zeros(rows, self.left, self.in_channels, dtype=weight.dtype, device=weight.device))

    def forward(self, x: Tensor, state: ConvState | None = None) -> Tensor:
        if x.shape[1] % self.stride:
            raise ValueError(f"{x.shape[1]} inputs are not a multiple of the stride {self.stride}")
        if state is None:
            x = F.pad(x, (0, 0, self.left, 0))
        else:
            x = torch.cat([state.context, x], dim=1)
            if self.left:
                state.context.copy_(x[:, -self.left :].detach())
        return self._convolve(x)

    def for_live(self, int8: bool) -> CausalConv1d:
        module = copy.deepcopy(self)
        if int8 and self.conv.groups == 1:
            module.product = PackedLinear(self.conv.weight.detach().flatten(1), self.conv.bias)
        if self._is_depthwise:
            module.taps = module._taps().detach()
        return module

    @property
    def _is_depthwise(self) -> bool:
        return 1 < self.conv.groups == self.in_channels == self.conv.out_channels

    def _taps(self) -> Tensor:
        return self.conv.weight[:, 0].T.contiguous()

    def _convolve(self, x: Tensor) -> Tensor:
        """[B, left + T, C_in] -> [B, T / stride, C_out]."""
        conv, (span, stride), dense = self.conv, (self.left + self.stride, self.stride), self.conv.groups == 1
        if x.shape[1] >= span + _FEW * stride or not (dense or self._is_depthwise):
            y: Tensor = conv(x.transpose(1, 2)).transpose(1, 2)
            return y
        # A live step has one output or a few: the library's convolution takes ten times as long as the product itself.
        windows = x.unfold(1, span, stride)[..., :: conv.dilation[0]]  # [B, T / stride, C_in, kernel]
        if dense:
            flat = windows.flatten(2)
            return F.linear(flat, conv.weight.flatten(1), conv.bias) if self.product is None else self.product(flat)
        taps = self._taps() if self.taps is None else self.taps
        y = (windows.transpose(2, 3) * taps).sum(dim=2)
        return y if conv.bias is None else y + conv.bias


@dataclass
class OverlapState:
    """The part of already computed outputs that later inputs still add to: tail [B, C_out, kernel - stride]."""

    tail: Tensor


class CausalConvTranspose1d(nn.Module):
    """A transposed convolution, [B, T, C_in] -> [B, T * stride, C_out]: input t adds to outputs from t * stride on."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1):
        super().__init__()
        if kernel_size < stride:
            raise ValueError(
                f"kernel_size {kernel_size} leaves gaps at stride {stride}: it must be at least the stride"
            )
        self.stride, self.out_channels, self.overlap = stride, out_channels, kernel_size - stride
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def init_state(self, rows: int) -> OverlapState:
        weight = self.conv.weight
        return OverlapState(
            torch.zeros(rows, self.out_channels, self.overlap, dtype=weight.dtype, device=weight.device)
        )

    def forward(self, x: Tensor, state: OverlapState | None = None) -> Tensor:
        y = self.conv(x.transpose(1, 2))  # [B, C_out, (T - 1) * stride + kernel]
        whole = x.shape[1] * self.stride
        if state is not None and self.overlap:
            y = torch.cat([y[..., : self.overlap] + state.tail, y[..., self.overlap :]], dim=-1)
            state.tail.copy_(y[..., whole:].detach())
        return y[..., :whole].transpose(1, 2) + self.bias


class ConvNeXtBlock(nn.Module):
    """A convolution over time of each channel by itself, then two layers over channels, added to the input.

    [B, T, C] -> [B, T, C]. Source: Liu et al. 2022, "A ConvNet for the 2020s", made causal.
    """

    def __init__(self, channels: int, hidden: int, kernel_size: int = 7, dilation: int = 1, scale: float = 0.1):
        super().__init__()
        self.depthwise = CausalConv1d(channels, channels, kernel_size, dilation=dilation, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand: nn.Linear | PackedLinear = nn.Linear(channels, hidden)
        self.contract: nn.Linear | PackedLinear = nn.Linear(hidden, channels)
        self.scale: Tensor | None = nn.Parameter(torch.full((channels,), scale))

    def init_state(self, rows: int) -> ConvState:
        return self.depthwise.init_state(rows)

    def forward(self, x: Tensor, state: ConvState | None = None) -> Tensor:
        y = self.contract(F.gelu(self.expand(self.norm(self.depthwise(x, state)))))
        return x + (y if self.scale is None else self.scale * y)

    def for_live(self, int8: bool) -> ConvNeXtBlock:
        module = copy.deepcopy(self)
        module.depthwise = self.depthwise.for_live(int8)
        if int8 and self.scale is not None:
            # Scaled rows are rounded to the same 8 bits.
            module.expand = PackedLinear(self.expand.weight.detach(), self.expand.bias)
            weight, bias, scale = self.contract.weight.detach(), self.contract.bias, self.scale.detach()
            module.contract = PackedLinear(weight * scale[:, None], None if bias is None else bias.detach() * scale)
            module.scale = None
        return module


class ConvNeXtBlocks(nn.ModuleList):
    """Blocks one after the other, [B, T, C] -> [B, T, C]; at first each adds 1 / `depth` of what it would alone."""

    def __init__(self, depth: int, channels: int, hidden: int, kernel_size: int):
        super().__init__(ConvNeXtBlock(channels, hidden, kernel_size, scale=1 / max(1, depth)) for _ in range(depth))

    def init_state(self, rows: int) -> list[ConvState]:
        return [block.init_state(rows) for block in self._blocks()]

    def forward(self, x: Tensor, state: list[ConvState] | None = None) -> Tensor:
        for i, block in enumerate(self):
            x = block(x, None if state is None else state[i])
        return x

    def _blocks(self) -> list[ConvNeXtBlock]:
        return [block for block in self if isinstance(block, ConvNeXtBlock)]
