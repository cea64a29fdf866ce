"""What is said and when, apart: the targets of a head that says which token comes next, whenever that may be.

A stream of text with times gives itself away in training. In "I am sorry" and "I can change the address" the second
token is due after another number of steps, so the PADs that have gone by tell which of the two it will be, and a model
that reads the true PADs need not have listened. In a call the PADs are its own, and it is at a loss. The step right
behind a token knows nothing of when the next is due: this is where the next one is asked for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.models.ahead import REPLY_STEPS
from s2s.models.plan import REACH

EVE = 5
"""Steps before a token in which it is asked for as well."""
EVE_WEIGHT = 0.3
OPEN_TOKENS, OPEN_WEIGHT = 4, 3.0
"""The first tokens of a reply decide which one it is; those behind them mostly follow."""


def neighbours(said: Tensor) -> tuple[Tensor, Tensor]:
    """Of each step of `said` [B, S] bool: the next one that is true, it may be itself, S where there is none; and the
    last one before it, -S where there is none; both [B, S]."""
    size = said.shape[-1]
    steps = torch.arange(size, device=said.device).expand_as(said)
    following = torch.where(said, steps, size).flip(-1).cummin(-1).values.flip(-1)
    before = torch.where(said, steps, -size).cummax(-1).values.roll(1, -1)
    before[:, 0] = -size
    return following, before


def next_tokens(
    target: Tensor, vocab_size: int, valid: Tensor, caller: Tensor | None = None, over: int | None = None
) -> tuple[Tensor, Tensor]:
    """Which token each step is asked for, and what the answer counts.

    Args:
        target: the stream's tokens [B, S], from vocab_size on not words.
        valid: steps that count at all [B, S] bool.
        caller: steps with a token of the caller's [B, S] bool, which parts two replies that follow each other closely.
        over: what is asked for behind the last token of a reply; None: nothing.

    Returns:
        The token that is due in a step or next [B, S], and weights [B, S]: 1 in the step behind a token and in the
        first one's own, `EVE_WEIGHT` on the eve of each, 0 elsewhere; for the first `OPEN_TOKENS` of a reply
        `OPEN_WEIGHT` times as much. Where a reply is `over`: that, and 1.
    """
    size = target.shape[-1]
    steps = torch.arange(size, device=target.device).expand_as(target)
    said = (target < vocab_size) & valid
    following, before = neighbours(said)
    ahead, since = following - steps, steps - before
    same = ahead <= REACH
    if caller is not None:
        heard = F.pad(caller.long().cumsum(-1), (1, 0))
        between = heard.gather(-1, following) - heard.gather(-1, steps)
        same |= (ahead < REPLY_STEPS) & (between == 0)
    decisive = (since == 1) & same | (ahead == 0) & (since > REACH + 1)
    weight = torch.where(decisive, 1.0, EVE_WEIGHT * (ahead <= EVE)) * (following < size)
    said_lately = F.avg_pool1d(F.pad(said.float()[:, None], (REACH, -1)), REACH, stride=1)[:, 0] * REACH
    weight = weight * torch.where(said_lately < OPEN_TOKENS - 0.5, OPEN_WEIGHT, 1.0)
    tokens = target.gather(-1, following.clamp(max=size - 1))
    if over is not None:
        # Where the row ends soon, nobody knows.
        ends = (since == 1) & ~same & F.pad(valid, (0, REPLY_STEPS))[:, REPLY_STEPS:]
        tokens, weight = torch.where(ends, over, tokens), torch.where(ends, 1.0, weight)
    return tokens, weight
