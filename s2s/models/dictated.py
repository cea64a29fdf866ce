"""A step whose agent says a given text: the model decides when a word comes, the text decides which.

The text is put into the stream of the agent's words, in place of what the model would write there, and the model says
it as it says its own. A word begins in a step in which the model would rather write something than nothing; where a
talker keeps time, all but the first one do when it has the word before out. The tokens of a word follow each other
without a gap, as they do in training. Where the model wants nothing for `Pace` steps, the next word comes all the same.
Behind the last one the agent writes nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.codec.base import Codec
from s2s.models.ahead import REPLY_STEPS
from s2s.models.duplex import DuplexModel
from s2s.models.step import DuplexState, DuplexStep
from s2s.nn.sampling import Controls
from s2s.streams import AGENT_TEXT

MAX_TOKENS = 1024
"""Of one text."""


@dataclass(frozen=True)
class Pace:
    """The slowest pace in steps: until the first word, and from the last token of a word to the next word."""

    first: int = 12
    next: int = 20

    def __post_init__(self) -> None:
        if self.first < 0 or self.next < 1:
            raise ValueError(f"a pace of {self.first} and {self.next} steps: allowed are 0 and 1 and above")


@dataclass
class DictationState(DuplexState):
    """Of each row: its tokens plus one, 0 behind the last, and which of them go on with a word [B, MAX_TOKENS].

    said: how many have been said [B]. idle: steps since the last of them [B]. pushed: words that the model had not
    asked for when their time was over [B].
    """

    tokens: Tensor
    joined: Tensor
    said: Tensor
    idle: Tensor
    pushed: Tensor


class DictatedStep(DuplexStep):
    """The duplex step with the agent's words given; rows without any say nothing."""

    def __init__(self, codec: Codec, model: DuplexModel, silence: Tensor | None = None, pace: Pace | None = None):
        super().__init__(codec, model, silence)
        self.pace, self.stream = pace or Pace(), model.layout.stream(AGENT_TEXT)

    def init_state(self, rows: int) -> DictationState:
        def new(*shape: int) -> Tensor:
            return torch.zeros(rows, *shape, dtype=torch.long, device=self.silence.device)

        duplex = super().init_state(rows)
        return DictationState(
            encoder=duplex.encoder,
            ring=duplex.ring,
            backbone=duplex.backbone,
            decoder=duplex.decoder,
            ahead=duplex.ahead,
            talker=duplex.talker,
            tokens=new(MAX_TOKENS),
            joined=new(MAX_TOKENS),
            said=new(),
            idle=new(),
            pushed=new(),
        )

    def on(self, codec: Codec, model: DuplexModel) -> DictatedStep:
        return DictatedStep(codec, model, self.silence, self.pace)

    def text_logits(self, hidden: Tensor, state: DuplexState) -> dict[str, Tensor]:
        """As the heads have them: what comes next is given, and the clock is asked for that alone."""
        return self.model.text_logits(hidden)

    def say_text(
        self, hidden: Tensor, state: DuplexState, controls: Controls | None, draws: Tensor
    ) -> dict[str, Tensor]:
        assert isinstance(state, DictationState)
        said = super().say_text(hidden, state, controls, draws)
        may = self.ring.may_speak(state.ring, self.stream)[:, 0]
        words = self._dictated(self.model.text_heads[self.stream.name](hidden), may, state)
        said[self.stream.name] = torch.where(may, words, self.stream.start_id)[:, None]
        return said

    def _dictated(self, logits: Tensor, may: Tensor, state: DictationState) -> Tensor:
        """The agent's next token or PAD [B]: logits of what the model would write [B, V], `may` it write at all [B]."""
        place = state.said.clamp(max=MAX_TOKENS - 1)[:, None]
        token = state.tokens.gather(1, place)[:, 0] * (state.said < MAX_TOKENS)
        joined = state.joined.gather(1, place)[:, 0] > 0
        content, pad = logits[:, : self.stream.vocab_size], logits[:, self.stream.pad_id]
        wants = content.float().logsumexp(dim=-1) > pad.float()
        if self.model.talker is not None and state.talker is not None:
            clock = self.model.talker.clock(state.talker)
            if clock is not None:
                due = clock.due((token - 1).clamp(min=0), state.idle == 0)
                wants = torch.where((state.said > 0) & (state.idle < REPLY_STEPS), due, wants)
        late = state.idle >= torch.where(state.said > 0, self.pace.next, self.pace.first)
        says = may & (token > 0) & (joined | wants | late)
        state.pushed += says & ~joined & ~wants
        state.said += says
        state.idle.copy_(torch.where(says, 0, state.idle + 1))
        return torch.where(says, token - 1, self.stream.pad_id)


def dictate(state: DictationState, row: int, words: Sequence[Sequence[int]]) -> None:
    """Before the first step: give a row its text, the tokens of each word.

    Raises ValueError for no tokens and too many of them.
    """
    tokens = [token for word in words for token in word]
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise ValueError(f"a text of {len(tokens)} tokens cannot be said, allowed are 1 to {MAX_TOKENS}")
    joined = [int(place > 0) for word in words for place in range(len(word))]
    state.tokens[row, : len(tokens)] = torch.tensor(tokens, device=state.tokens.device) + 1
    state.joined[row, : len(joined)] = torch.tensor(joined, device=state.joined.device)


def is_done(state: DictationState) -> Tensor:
    """Which rows have said all of their text [B] bool."""
    return state.said >= (state.tokens > 0).sum(dim=1)
