"""Other voices of the same words: how a row's sound is coloured, exchanged with another row's.

Source: Zhou et al. 2021, "Domain generalization with MixStyle".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ALPHA = 0.1  # of the Beta distribution: mostly one row's colour or the other's, seldom the middle


@contextmanager
def other_voices(embedding: nn.Module, pad_id: int, share: float) -> Iterator[None]:
    """While inside, what `embedding` makes of a `share` of rows is coloured as another row of the batch."""

    def recolour(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return mixed(output, inputs[0][:, 0] != pad_id, share)

    handle = embedding.register_forward_hook(recolour) if share else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def mixed(x: Tensor, heard: Tensor, share: float) -> Tensor:
    """A `share` of rows of x [B, S, D] with mean and spread of their steps `heard` [B, S] on the way to another row's.

    Rows in which nothing is heard, and steps in which nothing is, stay as they are.
    """
    rows = (heard.any(dim=1) & (torch.rand(len(x), device=x.device) < share)).nonzero()[:, 0]
    if len(rows) < 2:
        return x
    steps = heard[rows][..., None]
    values = x[rows].float()
    count = steps.sum(dim=1, keepdim=True)
    mean = (values * steps).sum(dim=1, keepdim=True) / count
    spread = (((values - mean).square() * steps).sum(dim=1, keepdim=True) / count + 1e-5).sqrt()
    kept = torch.distributions.Beta(ALPHA, ALPHA).sample((len(rows), 1, 1)).to(x.device)
    # Colours are those of the voices, not something to learn from.
    mean, spread = mean.detach(), spread.detach()
    of_next = [kept * one + (1 - kept) * one.roll(1, dims=0) for one in (mean, spread)]
    coloured = (values - mean) / spread * of_next[1] + of_next[0]
    return x.index_copy(0, rows, torch.where(steps, coloured, values).to(x.dtype))
