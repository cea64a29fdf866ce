"""Words at other times: what is only written may be said slower or faster than it was recorded.

A model that has only ever met the recordings' times counts steps instead of words: it knows the third digit by how long
the reply has gone on. Where the talker keeps time no reply goes on as long as its recording did, and such a model says
a digit twice, or none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from s2s.models.ahead import REPLY_STEPS
from s2s.train.ahead import neighbours

MOST_CHANGED = 0.5
"""Of the steps between two words, those that are left out or doubled, at most."""
LONGEST = 14
"""Steps from one word to the next that may become more: a longer pause would be taken for the end of a reply."""


def repeats(agent: Tensor, caller: Tensor) -> Tensor:
    """How often each step happens in another rhythm [B, S]: 0, 1 or 2.

    Args:
        agent: steps with a token of the agent's [B, S] bool.
        caller: those with one of the caller's, which keep their time [B, S] bool.
    """
    following, before = neighbours(agent)
    apart = following - before
    between = ~(agent | caller) & (apart <= REPLY_STEPS) & (following < agent.shape[-1])
    often, seldom = MOST_CHANGED * torch.rand(2, len(agent), 1, device=agent.device)
    dice = torch.rand(agent.shape, device=agent.device)
    return 1 + (between & (apart <= LONGEST) & (dice < often)).long() - (between & (dice > 1 - seldom)).long()


def unsteady(tracks: Mapping[str, Tensor], lengths: Tensor, counts: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Tracks [B, R, S] and their lengths [B] with each step as often as `counts` [B, S] says; the rest is cut."""
    size, ends = counts.shape[-1], counts.cumsum(-1)
    steps = torch.arange(size, device=counts.device).expand_as(counts).contiguous()
    index = torch.searchsorted(ends, steps, right=True).clamp(max=size - 1)
    found = {name: x.gather(-1, index[:, None].expand_as(x)) for name, x in tracks.items()}
    return found, ends.gather(1, lengths[:, None] - 1)[:, 0].clamp(max=size)
