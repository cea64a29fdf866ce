"""What the agent says next and when it says it: two questions with a head each, see `train.ahead` for why.

The head of the text decides in every step whether a token is due. Which one it is was decided right behind the last
token, before any PAD had gone by: how long the agent waits is its own doing and says nothing about what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2s.models.plan import Plan, PlanState

HOLD_STEPS = 6
"""Steps for which a decision stands. Behind a longer pause another reply may be due, so it is taken anew."""


@dataclass
class AheadState:
    """logits [B, V] of the token behind the last one, as they were there; since: steps since the last token [B]; plan:
    of the reply that has begun, None for models without."""

    logits: Tensor
    since: Tensor
    plan: PlanState | None


class Ahead:
    """The second head of a text stream of `vocab_size` tokens that are embedded as `words`, and what plans the first
    ones of a reply."""

    def __init__(self, head: nn.Module, vocab_size: int, plan: Plan | None = None, words: nn.Module | None = None):
        self.head, self.vocab_size, self.plan, self.words = head, vocab_size, plan, words

    def init_state(self, rows: int, device: torch.device) -> AheadState:
        logits = torch.zeros(rows, self.vocab_size, device=device)
        plan = None if self.plan is None else self.plan.init_state(rows)
        return AheadState(logits, torch.zeros(rows, dtype=torch.long, device=device), plan)

    def decide(self, hidden: Tensor, logits: Tensor, state: AheadState) -> Tensor:
        """Logits [B, V + 2] of a step, with its tokens as the second head would have them; hidden [B, D].

        The likeliest token is as likely as the likeliest was before: a token is due when it was due.
        """
        now = self.head(hidden)[:, : self.vocab_size].to(state.logits.dtype)
        state.logits.copy_(torch.where((state.since == 0)[:, None], now, state.logits))
        which = torch.where((state.since < HOLD_STEPS)[:, None], state.logits, now)
        if self.plan is not None and self.words is not None and state.plan is not None:
            asked = self.plan.next(self.words(state.plan.last), state.plan)
            which = self.plan.choose(self.head(asked)[:, : self.vocab_size], which, state.plan)
        tokens, silence = logits[:, : self.vocab_size], logits[:, self.vocab_size :]
        which = which - which.amax(dim=1, keepdim=True) + tokens.amax(dim=1, keepdim=True)
        return torch.cat([which.to(logits.dtype), silence], dim=1)

    def follow(self, ids: Tensor, hidden: Tensor, state: AheadState) -> None:
        """Take note of what was written in a step, ids [B], hidden [B, D]."""
        if self.plan is not None and state.plan is not None:
            self.plan.follow(ids, hidden, state.plan)
        state.since.copy_(torch.where(ids < self.vocab_size, 0, state.since + 1))
