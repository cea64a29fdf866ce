"""The loss of spelling: a teacher of the ear.

The transcript stream says each word once, at a time that is only roughly known, which teaches a fresh model little
about sounds for a long while. Connectionist temporal classification needs no times, and within a few hundred steps the
model hears letters.

Source: Graves et al. 2006, "Connectionist Temporal Classification".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.models.spelling import LETTERS
from s2s.text import Tokenizer
from s2s.train.loss import mean_over_ranks


class SpellingLoss(nn.Module):
    """Logits [B, S, letters + 1] of `models.spelling` against the words of the token track [B, S]."""

    letters: Tensor

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        spelled = [
            [LETTERS.index(letter) + 1 for letter in tokenizer.decode([i]).lower() if letter in LETTERS]
            for i in range(tokenizer.vocab_size)
        ]
        longest = max(1, max(map(len, spelled), default=1))
        table = torch.tensor([letters + [0] * (longest - len(letters)) for letters in spelled])
        self.register_buffer("letters", table, persistent=False)

    def forward(self, logits: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Loss per letter [].

        Args:
            logits: [B, S, letters + 1].
            ids: tokens of the transcript, ids beyond the vocabulary say nothing [B, S].
            lengths: steps of each row [B].
        """
        spoken = self.letters[ids.clamp(max=len(self.letters) - 1)] * (ids < len(self.letters))[..., None]
        return untimed_loss(logits, [row[row > 0] for row in spoken.flatten(1)], lengths, blank=0)


def untimed_loss(logits: Tensor, targets: list[Tensor], lengths: Tensor, blank: int) -> Tensor:
    """Connectionist temporal classification: loss per target [].

    Args:
        logits: [B, S, C].
        targets: the classes of each row in their order, without times.
        lengths: steps of each row [B].
        blank: the class of a step that adds nothing.
    """
    sizes = torch.tensor([len(row) for row in targets], device=logits.device)
    log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)  # [S, B, C]
    loss = F.ctc_loss(log_probs, torch.cat(targets), lengths, sizes, blank, reduction="sum", zero_infinity=True)
    return loss / mean_over_ranks(sizes.sum().float()).clamp(min=1)
