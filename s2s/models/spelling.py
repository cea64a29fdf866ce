"""Spelling: between two layers of the backbone, which letters the caller says; the layers above read them.

A model that hears a few thousand wordings can tell them apart without hearing every word, and then misunderstands all
others. Letters are heard alike in any wording, so what is built on them carries over.

Source: Nozaki & Komatsu 2021, "Relaxing the conditional independence assumption of CTC-based ASR by conditioning on
intermediate predictions".
"""

from __future__ import annotations

from torch import Tensor, nn

from s2s.nn.norm import RMSNorm

LETTERS = " abcdefghijklmnopqrstuvwxyz'"


class Spelling(nn.Module):
    """hidden [B, S, D] -> hidden, with the letters that are heard added [B, S, D]."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, len(LETTERS) + 1)
        self.back = nn.Linear(len(LETTERS) + 1, width, bias=False)
        nn.init.zeros_(self.back.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, S, D] -> [B, S, letters + 1]; class 0 is the blank, class i the letter LETTERS[i - 1]."""
        logits: Tensor = self.head(self.norm(hidden))
        return logits

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.back(self.logits(hidden).softmax(dim=-1))
