"""Spelling: between two layers of the backbone, which letters or tokens the caller says; the layers above read them.

A model that hears a few thousand wordings can tell them apart without hearing every word, and then misunderstands all
others. Letters are heard alike in any wording, so what is built on them carries over. But at 25 steps per second fast
speech has hardly a step for each letter; of tokens there are three times fewer, which leaves them room.

Source: Nozaki & Komatsu 2021, "Relaxing the conditional independence assumption of CTC-based ASR by conditioning on
intermediate predictions".
"""

from __future__ import annotations

from torch import Tensor, nn

from s2s.nn.norm import RMSNorm

LETTERS = " abcdefghijklmnopqrstuvwxyz'"


class Spelling(nn.Module):
    """hidden [B, S, D] -> hidden, with the letters or tokens that are heard added [B, S, D]."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, classes)
        self.back = nn.Linear(classes, width, bias=False)
        nn.init.zeros_(self.back.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, S, D] -> [B, S, classes].

        Of letters, class 0 is the blank and class i the letter LETTERS[i - 1]; tokens have their ids, PAD is the blank.
        """
        logits: Tensor = self.head(self.norm(hidden))
        return logits

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.back(self.logits(hidden).softmax(dim=-1))
