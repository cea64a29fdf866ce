"""Rows that are read instead of heard: what a caller means is learned from words alone, without the sound of them.

A few thousand recordings are soon known by heart, and with them which reply each gets. In a row that is read the model
hears nothing, and its inner layers are given the caller's tokens in place of those they would hear. So the layers above
have nothing but words to go by; some of these are left out or wrong, as in a transcript, and where the agent reads
digits back they are exchanged for others on both sides, so that digits have to be copied and cannot be remembered.
Calls that are only written (`s2s.data.written`) are always read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.phrases import DIGIT_WORDS
from s2s.streams import Stream
from s2s.text import Tokenizer

# When words are read, in steps after their place in the track (three after their end): as soon as they would be heard.
# Read any later, they would come when the reply has begun, and its first word would be learned as a guess.
EARLIEST, LATEST = -4, -1
LEFT_OUT, WRONG = 0.08, 0.03  # shares of tokens
EXCHANGED = 0.7  # share of the rows with digits read back


@dataclass
class ReadRows:
    """rows [B] bool are read, of which those `written` [B] bool have no sound of the caller at all.

    Those in `unspoken` [B] bool have no sound of the agent that says what their text does.

    The texts [B, S] of both sides are those to learn from.
    """

    rows: Tensor
    written: Tensor
    unspoken: Tensor
    user_text: Tensor
    agent_text: Tensor


class Reading:
    """Draws rows to read."""

    def __init__(self, tokenizer: Tokenizer, stream: Stream, share: float):
        """Args: stream: of the caller's text. share: of rows that are read."""
        self.stream, self.share = stream, share
        forms = [[tokenizer.encode(before + digit) for digit in DIGIT_WORDS] for before in ("", " ")]
        # Only where each digit is one token can any be exchanged for any other.
        self.tokens = torch.tensor([[ids[0] for ids in form] for form in forms if all(len(ids) == 1 for ids in form)])
        self.digit_of = torch.full((stream.table_size,), -1)
        for form in self.tokens:
            self.digit_of[form] = torch.arange(len(DIGIT_WORDS))

    def draw(
        self, user_text: Tensor, agent_text: Tensor, written: Tensor, unspoken: Tensor, training: bool = True
    ) -> ReadRows:
        """Which rows of a batch are read, and their texts [B, S]; ids from the vocabulary's size on say nothing.

        Args: written, unspoken [B] bool: rows without sound of the caller, of the agent. training: whether others are
        read too, and digits exchanged.
        """
        self.digit_of, self.tokens = self.digit_of.to(user_text.device), self.tokens.to(user_text.device)
        share, changed = (self.share, EXCHANGED) if training else (0.0, 0.0)
        drawn = (torch.rand(len(user_text), device=user_text.device) < share) & ~written
        wanted = drawn & (torch.rand(len(drawn), device=drawn.device) < changed)
        exchanged, user_text, agent_text = self._exchange(user_text, agent_text, wanted)
        return ReadRows(drawn | written, written, unspoken | exchanged, user_text, agent_text)

    def given(self, text: Tensor, read: ReadRows) -> Tensor:
        """What the inner layers are given at each step [B, S], of a text in its columns [B, S]; -1 in other rows."""
        pad, size = self.stream.pad_id, text.shape[1]
        late = torch.randint(EARLIEST, LATEST + 1, (len(text), 1), device=text.device)
        at = torch.arange(size, device=text.device) - late
        words = torch.where(at < size, text.gather(1, at.clamp(max=size - 1)), pad)
        dice = torch.rand(words.shape, device=text.device)
        exact = (read.unspoken | read.written)[:, None]  # what the agent reads back of these has to be there to be read
        said = (words < self.stream.vocab_size) & ~(exact & (self.digit_of[words] >= 0))
        words = torch.where(said & (dice < WRONG), torch.randint_like(words, self.stream.vocab_size), words)
        words = torch.where(said & (dice > 1 - LEFT_OUT), pad, words)
        return torch.where(read.rows[:, None], torch.where(words < self.stream.vocab_size, words, pad), -1)

    def _exchange(self, user_text: Tensor, agent_text: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Other digits for those of rows wanted [B], the same on both sides, where the agent says the caller's alone.

        Only where nobody answers that: what the agent says to an answer may hang on the digits. Returns which rows [B]
        have others now, and both texts [B, S].
        """
        user, agent = (self.digit_of[text.clamp(max=len(self.digit_of) - 1)] for text in (user_text, agent_text))
        same = (_in_front(user) == _in_front(agent)).all(dim=1)
        steps = torch.arange(user.shape[1], device=user.device)
        read_back = torch.where(agent >= 0, steps, -1).amax(dim=1, keepdim=True)
        answered = ((user_text < self.stream.vocab_size) & (steps > read_back)).any(dim=1)
        rows = wanted & same & ~answered & ((user >= 0).sum(dim=1) >= 3)
        others = torch.rand(len(rows), len(DIGIT_WORDS), device=rows.device).argsort(dim=1)
        texts = []
        for text, digits in ((user_text, user), (agent_text, agent)):
            place = digits.clamp(min=0)
            for form in self.tokens:
                is_form = rows[:, None] & (digits >= 0) & (form[place] == text)
                text = torch.where(is_form, form[others.gather(1, place)], text)
            texts.append(text)
        return rows, texts[0], texts[1]


def _in_front(digits: Tensor) -> Tensor:
    """The digits of each row [B, S] before everything else, which is negative, in their order."""
    return digits.gather(1, (digits < 0).long().argsort(dim=1, stable=True))
