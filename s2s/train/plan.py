"""How a reply begins, all of it in its first step: the targets of `models.plan`.

Several replies begin alike: "Your parcel was delivered", "Your parcel is at our depot". In training the agent's past
is that of the target, and the sound of the first words gives away how it goes on: it is the beginning of one recording
and of no other. A model that hears it need not remember what was asked, and in a call, where the beginning is its own,
it is right as often as by chance. In the step of the first token nothing of the reply has sounded yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.models.plan import REACH
from s2s.train.ahead import neighbours


@dataclass
class Planned:
    """Beginnings of replies, as many as fit in a row at most (M), and `num` tokens behind the first one.

    steps [B, M] of the first tokens; last [B, M, num] the tokens before those asked for; tokens [B, M, num]; known [B,
    M, num] bool: which of them there are.
    """

    steps: Tensor
    last: Tensor
    tokens: Tensor
    known: Tensor


def beginnings(target: Tensor, vocab_size: int, valid: Tensor, num: int) -> Planned:
    """The replies of a stream of text.

    Args:
        target: the stream's tokens [B, S], from vocab_size on not words.
        valid: steps that count at all [B, S] bool.
        num: tokens behind the first one that are asked for.
    """
    size = target.shape[-1]
    steps = torch.arange(size, device=target.device).expand_as(target)
    said = (target < vocab_size) & valid
    following, before = neighbours(said)
    following = F.pad(following, (0, 2), value=size)
    begins = said & (steps - before > REACH)
    # Of a size that is known beforehand, so that a GPU is not waited for; what is no beginning comes last.
    most = size // (REACH + 1) + 1
    first = torch.where(begins, steps, size).sort(dim=-1).values[:, :most]
    last, tokens, known, at = list[Tensor](), list[Tensor](), list[Tensor](), first
    padded = F.pad(target, (0, 2))
    for _ in range(num):
        there = following.gather(1, (at + 1).clamp(max=size))
        last.append(padded.gather(1, at))
        tokens.append(padded.gather(1, there))
        known.append((there < size) & (there - at <= REACH))
        # Behind a reply that is over nothing more is known of it.
        at = torch.where(known[-1], there, size)
    return Planned(first.clamp(max=size - 1), *(torch.stack(each, dim=-1) for each in (last, tokens, known)))
