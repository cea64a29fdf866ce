"""What the agent's sound is made from: its own words and what it has sounded like, and nothing else.

In all of training the agent says aloud what its text says, and both follow from what the caller has said. A voice
that reads the backbone's thoughts finds the sound of a number in them before its text is written, and of two ways to be
right it learns whichever is easier; where the two disagree in a call, what is heard is not what is written. A voice
that has only the text can but say the text. The backbone decides what is said, when to begin and when to break off.

Within a reply the talker may keep time, too: it is the one that hears how far the word before has got. The backbone
does not hear its own voice; of how long words take it knows what it remembers of the recordings.

Source of the division: Xu et al. 2025, "Qwen2.5-Omni" (thinker and talker).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.models.ahead import Clock
from s2s.nn.transformer import Transformer, TransformerConfig, TransformerState

EVEN = math.log(2)
"""Nats at which a word would have come as likely as not."""
STOP_LOGIT = -1.5
"""From where on the agent breaks off: rather once too often than to talk on for a third of a second more."""


@dataclass
class TalkerState:
    """layers: of the transformer; stopped: rows in which the agent has broken off and said no word since [B] bool; due:
    by how much the next token is, in nats of the chance that it would have come by now [B]."""

    layers: TransformerState
    stopped: Tensor
    due: Tensor


class Talker(nn.Module):
    """A small causal transformer over the agent's words and codes, both embedded in `width`."""

    def __init__(self, config: TransformerConfig, width: int, keeps_time: bool = False):
        super().__init__()
        self.words = nn.Linear(width, config.width, bias=False)
        self.sound = nn.Linear(width, config.width, bias=False)
        self.transformer = Transformer(config)
        self.stop = nn.Linear(width, 1)
        self.due = nn.Linear(config.width, 1) if keeps_time else None

    def init_state(self, rows: int) -> TalkerState:
        like = self.stop.weight
        stopped = torch.zeros(rows, dtype=torch.bool, device=like.device)
        due = torch.zeros(rows, dtype=like.dtype, device=like.device)
        return TalkerState(self.transformer.init_state(rows), stopped, due)

    def forward(self, words: Tensor, sound: Tensor, state: TalkerState | None = None) -> Tensor:
        """Tokens of each step and codes of the step before, embedded, [B, S, D] both -> [B, S, W]."""
        x = self.words(words) + self.sound(sound)
        y: Tensor = self.transformer(x, None if state is None else state.layers)
        return y

    def clock(self, state: TalkerState) -> Clock | None:
        """The time as it is in this step; None for a talker that does not keep it."""
        return None if self.due is None else Clock(state.due > EVEN, state.stopped)

    def listen(self, voice: Tensor, says: Tensor, state: TalkerState) -> None:
        """Take note of what it has made of a step [B, W], in which rows that has a word [B] bool.

        The head tells how likely a word is in the coming step if there was none before. Where that is spread over some
        steps none of them is likely, so what counts is whether it would have come by then.
        """
        if self.due is not None:
            waited = torch.where(says, 0.0, state.due.float())
            state.due.copy_(waited + F.softplus(self.due(voice)[:, 0].float()).detach())

    def break_off(self, hidden: Tensor, says: Tensor, state: TalkerState) -> None:
        """Take note of a step: hidden [B, D] of the backbone, in which rows it writes a word [B] bool."""
        stops = self.stop(hidden)[:, 0] > STOP_LOGIT
        state.stopped.copy_((state.stopped | stops) & ~says)
