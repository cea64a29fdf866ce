"""How a talker is taught to follow its text: recordings cut at words and put together anew.

Replies of a desk are few, so that the sound of one tells how it goes on. Where any words may follow any others, only
the text does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.data.align import AGENT_LEAD_STEPS

JOINT_SHARE = 0.5
"""Of words, those in front of which a recording is cut."""
HIDDEN_STEPS = 4
"""How many codes in a row are hidden."""


def spliced(
    text: Tensor, codes: Tensor, weight: Tensor, chosen: Tensor, vocab_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The words of all rows in another order: tokens [B, S], any codes [B, K, S] and weights [B, K', S] of columns, and
    which columns are `chosen` [B, S].

    A word is what lies between its first token and that of the next one, in its sound `AGENT_LEAD_STEPS` later.
    """
    rows, size = text.shape
    said = (text < vocab_size).flatten()
    cut = said & ~said.roll(1) & (torch.rand(rows * size, device=text.device) < JOINT_SHARE)
    # A number for each part, and as many as there might be, so that a GPU is not waited for.
    order = torch.rand(rows * size + 1, device=text.device)[cut.cumsum(0)].sort(stable=True).indices
    sound = (order.roll(AGENT_LEAD_STEPS) + AGENT_LEAD_STEPS) % (rows * size)

    def moved(x: Tensor, order: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1)[:, order].unflatten(1, (rows, size)).transpose(0, 1)

    text, chosen = moved(text[:, None], order)[:, 0], moved(chosen[:, None], sound)[:, 0]
    return text, moved(codes, sound), moved(weight, sound), chosen


def shifted(text: Tensor, share: float, pad_id: int) -> Tensor:
    """Tokens [B, S], in a `share` of rows a step earlier or later than the recording has them."""
    dice = torch.rand(len(text), 1, device=text.device)
    earlier, later = F.pad(text[:, 1:], (0, 1), value=pad_id), F.pad(text[:, :-1], (1, 0), value=pad_id)
    return torch.where(dice < share / 2, earlier, torch.where(dice < share, later, text))


def partly_hidden(codes: Tensor, share: float, pad_id: int) -> Tensor:
    """Codes [B, K, S] of which a `share` of steps is hidden, several in a row."""
    starts = torch.rand(len(codes), 1, codes.shape[-1], device=codes.device) < share / HIDDEN_STEPS
    hidden = F.max_pool1d(F.pad(starts.float(), (HIDDEN_STEPS - 1, 0)), HIDDEN_STEPS, stride=1) > 0
    return codes.masked_fill(hidden, pad_id)
