"""How a reply begins: its first tokens, all known in the step of the first one, see `train.plan` for why."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 16
"""Steps: as long as a pause between two sentences of one reply. A token further away belongs to another reply."""


@dataclass
class PlanState:
    """hidden of the step that began the reply [B, D]; said: how many of its tokens are written, up to as many as are
    planned, 0 before the first reply [B]; last: the latest of them [B]; idle: steps since it [B].
    """

    hidden: Tensor
    said: Tensor
    last: Tensor
    idle: Tensor


class Plan(nn.Module):
    """What a reply goes on with, up to `num_tokens`, from the step in which it began and the token before.

    It thinks in the width of the backbone, so that the head of what comes next can say which token that is.
    """

    def __init__(self, width: int, vocab_size: int, num_tokens: int, reach: int = REACH):
        super().__init__()
        self.width, self.vocab_size, self.num_tokens, self.reach = width, vocab_size, num_tokens, reach
        self.begun = nn.Linear(width, width, bias=False)
        self.last = nn.Linear(width, width, bias=False)
        self.place = nn.Embedding(num_tokens, width)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.place.weight, std=0.5)

    def forward(self, hidden: Tensor, said: Tensor, last: Tensor) -> Tensor:
        """hidden [..., D] of the step of the first token, `said` [...] tokens of the reply, the `last` of them embedded
        [..., D] -> [..., D] to ask for the next."""
        return hidden + self.out(F.gelu(self.begun(hidden) + self.place(said) + self.last(last)))

    def init_state(self, rows: int) -> PlanState:
        like = self.out.weight
        hidden = torch.zeros(rows, self.width, dtype=like.dtype, device=like.device)
        said, last, idle = torch.zeros(3, rows, dtype=torch.long, device=like.device).unbind(0)
        return PlanState(hidden, said, last, idle)

    def next(self, last: Tensor, state: PlanState) -> Tensor:
        """What the next token is asked for with [B, D]; the `last` one embedded [B, D]."""
        out: Tensor = self(state.hidden, state.said.clamp(max=self.num_tokens - 1), last)
        return out

    def choose(self, planned: Tensor, which: Tensor, state: PlanState) -> Tensor:
        """Logits [B, V] of the next token, whenever it is due: those that are `planned` in rows that have a plan."""
        has_one = (state.said > 0) & (state.said < self.num_tokens) & (state.idle < self.reach)
        return torch.where(has_one[:, None], planned.to(which.dtype), which)

    def follow(self, ids: Tensor, hidden: Tensor, state: PlanState) -> None:
        """Take note of what was written in a step, ids [B], and of the step itself, hidden [B, D]."""
        writes = ids < self.vocab_size
        begins = writes & (state.idle >= self.reach)
        state.hidden.copy_(torch.where(begins[:, None], hidden, state.hidden))
        goes_on = writes & (state.said > 0) & (state.said < self.num_tokens)
        state.said.copy_(torch.where(begins, 1, state.said + goes_on))
        state.last.copy_(torch.where(writes, ids, state.last))
        state.idle.copy_(torch.where(writes, 0, state.idle + 1))
