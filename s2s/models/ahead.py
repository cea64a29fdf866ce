"""What the agent says next and when it says it: two questions with a head each, see `train.ahead` for why.

The head of the text decides in every step whether a token is due. Which one it is was decided right behind the last
token, before any PAD had gone by: how long the agent waits is its own doing and says nothing about what was asked.

Where a talker keeps time, it was also decided there whether anything comes next in this reply. If so, it comes when the
talker has the word before out; the first head decides when a reply begins, and nothing else. By itself it knows the
recordings' times by heart, and a word that misses its step by one is never said.

An agent in doubt whether the caller has come to an end may find in every step that waiting is a little likelier, until
the time of which it knows that replies begin is over, and never answer. So it adds up what it left to chance: where a
reply would have begun by now, it does. What was left to chance a second ago counts no more, as the caller has gone on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from s2s.models.plan import Plan, PlanState

HOLD_STEPS = 6
"""Steps for which a decision stands. Behind a longer pause another reply may be due, so it is taken anew."""
REPLY_STEPS = 24
"""Steps from one token to the next within a reply, at most: the pause between two sentences. Where a talker keeps time,
a decision stands as long."""
DOUBT = 1.5
"""Nats of the chance that a reply would have begun, at which it does: four of five would have."""
DOUBT_KEPT = 0.9
"""Of these nats, from one step to the next."""
CERTAIN = 1e4
"""A difference of logits that leaves nothing to chance."""


class Clock(Protocol):
    """What a talker knows of the time; stopped: rows in which the agent has broken off amid a reply [B] bool."""

    @property
    def stopped(self) -> Tensor: ...

    def due(self, token: Tensor, fresh: Tensor) -> Tensor:
        """Rows in which a `token` [B] is due now [B] bool; `fresh` [B] bool: the last one was in the step before."""


@dataclass
class AheadState:
    """logits [B, V + 2] of the token behind the last one, as they were there; left: steps in which it may still be of
    the same reply, `REPLY_STEPS` right behind the last one [B]; doubt: nats of the chance that a reply would have begun
    by now [B]; plan: of the reply that has begun, None for models without."""

    logits: Tensor
    left: Tensor
    doubt: Tensor
    plan: PlanState | None


class Ahead:
    """The second head of a text stream of `vocab_size` tokens that are embedded as `words`, and what plans the first
    ones of a reply."""

    def __init__(self, head: nn.Module, vocab_size: int, plan: Plan | None = None, words: nn.Module | None = None):
        self.head, self.vocab_size, self.plan, self.words = head, vocab_size, plan, words

    def init_state(self, rows: int, device: torch.device) -> AheadState:
        logits = torch.zeros(rows, self.vocab_size + 2, device=device)
        left = torch.zeros(rows, dtype=torch.long, device=device)
        doubt = torch.zeros(rows, device=device)
        return AheadState(logits, left, doubt, None if self.plan is None else self.plan.init_state(rows))

    def decide(self, hidden: Tensor, logits: Tensor, state: AheadState, clock: Clock | None = None) -> Tensor:
        """Logits [B, V + 2] of a step, with its tokens as the second head would have them; hidden [B, D].

        The likeliest token is as likely as the likeliest was before: a token is due when it was due. With a `clock`
        this is so at the beginning of a reply; within it, a token is due when it is by the clock.
        """
        size, now = self.vocab_size, self.head(hidden).to(state.logits.dtype)
        state.logits.copy_(torch.where((state.left == REPLY_STEPS)[:, None], now, state.logits))
        if clock is None:
            stands = state.left > REPLY_STEPS - HOLD_STEPS
        else:
            stands = self.goes_on(state) & ~clock.stopped
        which = torch.where(stands[:, None], state.logits, now)[:, :size]
        if self.plan is not None and self.words is not None and state.plan is not None:
            asked = self.plan.next(self.words(state.plan.last), state.plan)
            which = self.plan.choose(self.head(asked)[:, :size], which, state.plan)
        tokens, silence = logits[:, :size], logits[:, size:]
        which = which - which.amax(dim=1, keepdim=True) + tokens.amax(dim=1, keepdim=True)
        if clock is not None:
            due = clock.due(which.argmax(dim=1), state.left == REPLY_STEPS) | (state.left == 1)
            left_to_chance = -logits.float().softmax(dim=1)[:, size:].sum(dim=1).clamp(min=1e-30).log()
            state.doubt.copy_(torch.where(stands, 0.0, DOUBT_KEPT * state.doubt + left_to_chance))
            certain = stands * torch.where(due, -CERTAIN, CERTAIN) - CERTAIN * (state.doubt > DOUBT)
            silence = silence + certain[:, None]
        return torch.cat([which.to(logits.dtype), silence.to(logits.dtype)], dim=1)

    def goes_on(self, state: AheadState) -> Tensor:
        """Rows amid a reply of which more is to come [B] bool."""
        more = state.logits[:, : self.vocab_size].amax(dim=1) > state.logits[:, self.vocab_size + 1]
        return more & (state.left > 0)

    def follow(self, ids: Tensor, hidden: Tensor, state: AheadState) -> None:
        """Take note of what was written in a step, ids [B], hidden [B, D]."""
        if self.plan is not None and state.plan is not None:
            self.plan.follow(ids, hidden, state.plan)
        writes = ids < self.vocab_size
        state.left.copy_(torch.where(writes, REPLY_STEPS, (state.left - 1).clamp(min=0)))
        state.doubt.copy_(torch.where(writes, 0.0, state.doubt))
