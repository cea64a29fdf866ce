"""Spelling: between two layers of the backbone, which pieces of words the caller says; the layers above read them.

A model that hears a few thousand wordings can tell them apart without hearing every word, and then misunderstands all
others. Parts of words are heard alike in any wording, so what is built on them carries over. Single letters are too
many: at 25 steps per second fast speech has hardly a step for each, and those without one are left out ("dagher" for
"daughter"). Of pieces of up to three letters there are half as many, of a tokenizer's tokens a third.

Source: Nozaki & Komatsu 2021, "Relaxing the conditional independence assumption of CTC-based ASR by conditioning on
intermediate predictions".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.nn.norm import RMSNorm
from s2s.text import Tokenizer

LETTERS = " abcdefghijklmnopqrstuvwxyz'"
LONGEST = 3  # letters of a piece


def spelling_pieces(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The pieces that words are spelled in: every letter, and the tokenizer's shortest tokens."""
    tokens = {tokenizer.decode([i]).lower() for i in range(tokenizer.vocab_size)}
    short = {token for token in tokens if 2 <= len(token) <= LONGEST and set(token) <= set(LETTERS)}
    return (*LETTERS, *sorted(short))


def spell(text: str, pieces: Sequence[str]) -> list[int]:
    """Places in `pieces`, the longest piece first wherever one begins; what is no letter is left out."""
    places = {piece: place for place, piece in enumerate(pieces)}
    letters = "".join(letter for letter in text.lower() if letter in LETTERS)
    spelled, at = [], 0
    while at < len(letters):
        piece = next(p for n in range(LONGEST, 0, -1) if (p := letters[at : at + n]) in places)
        spelled.append(places[piece])
        at += len(piece)
    return spelled


class Spelling(nn.Module):
    """hidden [B, S, D] -> hidden, with the pieces that are heard added [B, S, D]."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, classes)
        self.back = nn.Linear(classes, width, bias=False)
        nn.init.zeros_(self.back.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, S, D] -> [B, S, classes].

        Of pieces, class 0 is the blank and class i the piece at i - 1; tokens have their ids, PAD is the blank.
        """
        logits: Tensor = self.head(self.norm(hidden))
        return logits

    def forward(self, hidden: Tensor, given: Tensor | None = None) -> Tensor:
        """Args: given: classes [B, S] that count as heard whatever is; in rows of negative ones nothing is given."""
        heard = self.logits(hidden).softmax(dim=-1)
        if given is not None:
            certain = F.one_hot(given.clamp(min=0), heard.shape[-1]).to(heard.dtype)
            heard = torch.where((given >= 0)[..., None], certain, heard)
        # As loud as what it is added to, which grows from layer to layer: a small vector would not be heard beside it.
        loudness = hidden.square().mean(dim=-1, keepdim=True).sqrt()
        return hidden + loudness * self.back(heard)

    @torch.no_grad()
    def read_as(self, rows: Tensor, blank: int) -> None:
        """Begin by adding half of the loudness of hidden in the direction of rows [classes, D], nothing for `blank`."""
        self.back.weight.copy_(0.5 * rows.shape[1] ** 0.5 * F.normalize(rows, dim=1).T)
        self.back.weight[:, blank] = 0
