"""The loss of spelling: a teacher of the ear.

The transcript stream says each word once, at a time that is only roughly known, which teaches a fresh model little
about sounds for a long while. Connectionist temporal classification needs no times, and within a few hundred steps the
model hears pieces of words.

Source: Graves et al. 2006, "Connectionist Temporal Classification".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2s.models.spelling import spell
from s2s.text import Tokenizer
from s2s.train.loss import mean_over_ranks


class SpellingLoss(nn.Module):
    """Logits [B, S, pieces + 1] of `models.spelling` against the words of the token track [B, S]."""

    spelled: Tensor

    def __init__(self, tokenizer: Tokenizer, pieces: Sequence[str]):
        super().__init__()
        # Token by token, so that no piece reaches over the end of one.
        rows = [[1 + place for place in spell(tokenizer.decode([i]), pieces)] for i in range(tokenizer.vocab_size)]
        longest = max(1, max(map(len, rows), default=1))
        table = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        self.register_buffer("spelled", table, persistent=False)

    def forward(self, logits: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Loss per piece [].

        Args:
            logits: [B, S, pieces + 1].
            ids: tokens of the transcript, ids beyond the vocabulary say nothing [B, S].
            lengths: steps of each row [B].
        """
        spoken = self.spelled[ids.clamp(max=len(self.spelled) - 1)] * (ids < len(self.spelled))[..., None]
        pieces = spoken.flatten(1)
        return untimed_loss(logits, pieces, pieces > 0, lengths, blank=0)


def untimed_loss(logits: Tensor, targets: Tensor, said: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Connectionist temporal classification: loss per target [].

    Args:
        logits: [B, S, C].
        targets: the classes of each row in their order, with anything between them [B, N].
        said: which of these are classes [B, N] bool.
        lengths: steps of each row [B].
        blank: the class of a step that adds nothing.
    """
    sizes = said.sum(dim=1)
    log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)  # [S, B, C]
    loss = F.ctc_loss(log_probs, targets[said], lengths, sizes, blank, reduction="sum", zero_infinity=True)
    return loss / mean_over_ranks(sizes.sum().float()).clamp(min=1)
