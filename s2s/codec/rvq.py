"""Residual vector quantisation with codebooks learned by moving averages.

Source: Zeghidour et al. 2021, "SoundStream"; dead entries come back as vectors of the batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Quantised:
    """What training needs of one pass: vectors [B, T, D] (straight-through), codes [B, K, T], commitment loss []."""

    vectors: Tensor
    codes: Tensor
    commitment: Tensor


class ResidualVectorQuantizer(nn.Module):
    """K codebooks of V entries of D dimensions; each codes what the ones before it left over."""

    codebooks: Tensor
    usage: Tensor
    sums: Tensor
    started: Tensor
    searched: list[tuple[Tensor, Tensor]] | None

    def __init__(
        self, num_codebooks: int, codebook_size: int, dim: int, decay: float = 0.99, revive_below: float = 0.1
    ):
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        self.register_buffer("codebooks", torch.randn(num_codebooks, codebook_size, dim))
        # What follows exists for training only; exports leave it out.
        self.register_buffer("usage", torch.ones(num_codebooks, codebook_size))
        self.register_buffer("sums", self.codebooks.clone())
        self.register_buffer("started", torch.zeros(num_codebooks, dtype=torch.bool))
        self.searched = None  # each codebook and its half norms, where they no longer change

    @property
    def num_codebooks(self) -> int:
        return self.codebooks.shape[0]

    def encode(self, x: Tensor) -> Tensor:
        """Nearest entries: vectors [B, T, D] -> codes [B, K, T]."""
        residual, codes = at_least_float32(x), []
        for codebook, norm in self.searched or zip(self.codebooks, _half_norms(self.codebooks), strict=True):
            index = _nearest(residual, codebook, norm)
            residual = residual - F.embedding(index, codebook)
            codes.append(index)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of entries: codes [B, k, T], any first k levels -> vectors [B, T, D]."""
        return embed(codes, self.codebooks)

    def for_live(self, int8: bool) -> ResidualVectorQuantizer:
        """The same with what follows from the codebooks computed once; they must not change any more."""
        module = copy.deepcopy(self)
        module.searched = list(zip(module.codebooks, _half_norms(module.codebooks), strict=True))
        return module

    def forward(self, x: Tensor, levels: Tensor | None = None) -> Quantised:
        """Quantise and, in training mode, update the codebooks.

        Args:
            x: vectors [B, T, D].
            levels: how many levels each row uses [B]; all when None.
        """
        x = at_least_float32(x)
        total, residual = torch.zeros_like(x), x.detach()
        codes, commitment = [], x.new_zeros(())
        for k in range(self.num_codebooks):
            used = torch.ones_like(x[:, 0, 0], dtype=torch.bool) if levels is None else levels > k
            if self.training:
                self._start(k, residual[used])
            index = _nearest(residual, self.codebooks[k], _half_norms(self.codebooks[k]))
            vectors = F.embedding(index, self.codebooks[k]) * used[:, None, None]
            if self.training:
                self._update(k, residual[used].flatten(0, 1), index[used].flatten())
            commitment = commitment + ((x - (total + vectors)) ** 2 * used[:, None, None]).mean()
            total, residual = total + vectors, residual - vectors
            codes.append(index)
        straight_through = x + (total - x).detach()
        return Quantised(straight_through, torch.stack(codes, dim=1), commitment / self.num_codebooks)

    @torch.no_grad()
    def _start(self, k: int, x: Tensor) -> None:
        if self.started[k] or not _rows_of_first_rank(x):
            return
        self._set_entries(k, torch.arange(self.codebooks.shape[1], device=x.device), x.flatten(0, 1))
        self.started[k] = True

    @torch.no_grad()
    def _update(self, k: int, x: Tensor, index: Tensor) -> None:
        counts = torch.zeros_like(self.usage[k]).index_add_(0, index, torch.ones_like(x[:, 0]))
        sums = torch.zeros_like(self.sums[k]).index_add_(0, index, x)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.usage[k].lerp_(counts, 1 - self.decay)
        self.sums[k].lerp_(sums, 1 - self.decay)
        self.codebooks[k] = self.sums[k] / self.usage[k].clamp(min=1e-3)[:, None]
        dead = (self.usage[k] < self.revive_below).nonzero().flatten()
        if len(dead) and _rows_of_first_rank(x):
            self._set_entries(k, dead, x)

    def _set_entries(self, k: int, entries: Tensor, x: Tensor) -> None:
        """Replace entries by vectors of the batch, slightly moved so that no two are equal."""
        chosen = torch.zeros_like(self.codebooks[k, entries])
        if len(x):
            chosen = x[torch.randint(len(x), (len(entries),), device=x.device)]
            chosen = chosen + 0.01 * x.std() * torch.randn_like(chosen)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(chosen, 0)
        self.codebooks[k, entries] = chosen
        self.sums[k, entries] = chosen
        self.usage[k, entries] = 1.0


def _rows_of_first_rank(x: Tensor) -> int:
    """len(x) in the process whose vectors become entries: none may use a level, and all processes must act alike."""
    rows = torch.tensor(len(x), device=x.device)
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(rows, 0)
    return int(rows)


def embed(codes: Tensor, codebooks: Tensor) -> Tensor:
    """The sum of the entries of each step: codes [B, k, T], codebooks [K, V, D] -> [B, T, D]."""
    levels, size = codes.shape[1], codebooks.shape[1]
    offsets = torch.arange(0, levels * size, size, device=codes.device)
    return F.embedding(codes.transpose(1, 2) + offsets, codebooks.flatten(0, 1)).sum(dim=2)


def _half_norms(codebooks: Tensor) -> Tensor:
    """Half the squared length of every entry, [..., V, D] -> [..., V]."""
    return 0.5 * (codebooks**2).sum(dim=-1)


def _nearest(x: Tensor, codebook: Tensor, half_norms: Tensor) -> Tensor:
    """The entry of [V, D] closest to each vector of [..., D] -> [...]."""
    # The squared length of x is the same for every entry, so it is left out. bf16 could not tell neighbours apart.
    with torch.autocast(x.device.type, enabled=False):
        scores = torch.addmm(half_norms, at_least_float32(x).flatten(0, -2), codebook.T, beta=-1)
        return scores.argmax(dim=-1).view(x.shape[:-1])


def at_least_float32(x: Tensor) -> Tensor:
    """Half precisions as float32; float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
