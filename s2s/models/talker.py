"""What the agent's sound is made from: its own words and what it has sounded like, and nothing else.

In all of training the agent says aloud what its text says, and both follow from what the caller has said. A voice
that reads the backbone's thoughts finds the sound of a number in them before its text is written, and of two ways to be
right it learns whichever is easier; where the two disagree in a call, what is heard is not what is written. A voice
that has only the text can but say the text. The backbone decides what is said and when, and when to break off.

Source of the division: Xu et al. 2025, "Qwen2.5-Omni" (thinker and talker).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2s.nn.transformer import Transformer, TransformerConfig, TransformerState

STOP_LOGIT = -1.5
"""From where on the agent breaks off: rather once too often than to talk on for a third of a second more."""


@dataclass
class TalkerState:
    """layers: of the transformer; stopped: rows in which the agent has broken off and said no word since [B] bool."""

    layers: TransformerState
    stopped: Tensor


class Talker(nn.Module):
    """A small causal transformer over the agent's words and codes, both embedded in `width`."""

    def __init__(self, config: TransformerConfig, width: int):
        super().__init__()
        self.words = nn.Linear(width, config.width, bias=False)
        self.sound = nn.Linear(width, config.width, bias=False)
        self.transformer = Transformer(config)
        self.stop = nn.Linear(width, 1)

    def init_state(self, rows: int) -> TalkerState:
        stopped = torch.zeros(rows, dtype=torch.bool, device=self.stop.weight.device)
        return TalkerState(self.transformer.init_state(rows), stopped)

    def forward(self, words: Tensor, sound: Tensor, state: TalkerState | None = None) -> Tensor:
        """Tokens of each step and codes of the step before, embedded, [B, S, D] both -> [B, S, W]."""
        x = self.words(words) + self.sound(sound)
        y: Tensor = self.transformer(x, None if state is None else state.layers)
        return y

    def break_off(self, hidden: Tensor, says: Tensor, state: TalkerState) -> None:
        """Take note of a step: hidden [B, D] of the backbone, in which rows it writes a word [B] bool."""
        stops = self.stop(hidden)[:, 0] > STOP_LOGIT
        state.stopped.copy_((state.stopped | stops) & ~says)
