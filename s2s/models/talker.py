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

from s2s.nn.transformer import Transformer, TransformerConfig, TransformerState
from s2s.text import Tokenizer

EVEN = math.log(2)
"""Nats at which a word would have come as likely as not."""
FAST = 50.0
"""How much faster than others a number that stands by itself has to learn: an optimiser moves both by as much."""
STOP_LOGIT = 1.0
"""From where on the agent breaks off. Who has learned to break off false starts, too, is sooner sure that it should: at
less it would do so for every sixth nod, and a reply that begins anew is heard as a wrong one."""


@dataclass
class TalkerState:
    """layers: of the transformer; stopped: rows in which the agent has broken off and said no word since [B] bool; out:
    how far the last token is out by what was said in the last step, as logits [B]; waited: nats of the chance that the
    next token would have come by now [B]; rest: steps until the last token can be out [B]."""

    layers: TransformerState
    stopped: Tensor
    out: Tensor
    waited: Tensor
    rest: Tensor


class Talker(nn.Module):
    """A small causal transformer over the agent's words and codes, both embedded in `width`.

    One that keeps time is told the size of the vocabulary.
    """

    def __init__(self, config: TransformerConfig, width: int, vocab_size: int | None = None):
        super().__init__()
        self.words = nn.Linear(width, config.width, bias=False)
        self.sound = nn.Linear(width, config.width, bias=False)
        self.transformer = Transformer(config)
        self.stop = nn.Linear(width, 1)
        self.timing = None if vocab_size is None else Timing(config.width, vocab_size)

    def init_state(self, rows: int) -> TalkerState:
        like = self.stop.weight
        stopped = torch.zeros(rows, dtype=torch.bool, device=like.device)
        out, waited, rest = torch.zeros(3, rows, dtype=like.dtype, device=like.device).unbind(0)
        return TalkerState(self.transformer.init_state(rows), stopped, out, waited, rest)

    def forward(self, words: Tensor, sound: Tensor, state: TalkerState | None = None) -> Tensor:
        """Tokens of each step and codes of the step before, embedded, [B, S, D] both -> [B, S, W]."""
        x = self.words(words) + self.sound(sound)
        y: Tensor = self.transformer(x, None if state is None else state.layers)
        return y

    def clock(self, state: TalkerState) -> TalkerClock | None:
        """The time as it is in this step; None for a talker that does not keep it."""
        return None if self.timing is None else TalkerClock(self.timing, state)

    def listen(self, voice: Tensor, text: Tensor, state: TalkerState) -> None:
        """Take note of what it has made of a step [B, W], whose token or PAD was `text` [B]."""
        if self.timing is not None:
            state.out.copy_(self.timing.out(voice)[:, 0].detach())
            shortest = self.timing.shortest
            says = text < len(shortest)
            takes = shortest[text.clamp(max=len(shortest) - 1)]
            state.rest.copy_((torch.where(says, takes, state.rest) - 1).clamp(min=0))

    def break_off(self, hidden: Tensor, says: Tensor, state: TalkerState) -> None:
        """Take note of a step: hidden [B, D] of the backbone, in which rows it writes a word [B] bool."""
        stops = self.stop(hidden)[:, 0] > STOP_LOGIT
        state.stopped.copy_((state.stopped | stops) & ~says)


class Timing(nn.Module):
    """When the next token comes: how likely it begins a word in the coming step, if none has begun yet.

    `out` tells it by what a step sounded like, `token` by which it would be: "we" is shorter in "we are" than in "we
    open". Tokens that go on with a word, `joined` [V], follow at once. Sound alone may deceive: the end of "three" lies
    still in the step that begins the "two" behind it, which is then over before it is said. So a word waits for as long
    as the token before it took wherever it was heard in training, `shortest` [V] in steps, 0 where it was not.
    """

    joined: Tensor
    shortest: Tensor

    def __init__(self, width: int, vocab_size: int):
        super().__init__()
        self.out = nn.Linear(width, 1)
        self.token = nn.Embedding(vocab_size, 1)
        nn.init.zeros_(self.token.weight)
        self.register_buffer("joined", torch.zeros(vocab_size))
        self.register_buffer("shortest", torch.zeros(vocab_size))

    def forward(self, out: Tensor, token: Tensor) -> Tensor:
        """Logits of a word in the coming step [...]: `out` of a step [...], the `token` it would be [...]."""
        logits: Tensor = out + FAST * self.token(token)[..., 0]
        return logits

    def know(self, tokenizer: Tokenizer) -> None:
        """Find out which tokens go on with a word: those without a space in front that are no actions."""
        actions = set(tokenizer.actions.values())
        for token in range(tokenizer.vocab_size):
            self.joined[token] = token not in actions and not tokenizer.decode([token]).startswith(" ")

    @torch.no_grad()
    def measure(self, tokens: Tensor, steps: Tensor) -> None:
        """Take note that behind `tokens` [N] a word began so many `steps` [N] later."""
        lasting = self.shortest.clone().masked_fill_(self.shortest == 0, torch.inf)
        lasting.scatter_reduce_(0, tokens, steps.to(lasting.dtype), "amin")
        self.shortest.copy_(torch.where(lasting.isinf(), 0.0, lasting))


@dataclass(frozen=True)
class TalkerClock:
    """A `Clock` that goes by what has been said; asked once in each step."""

    timing: Timing
    state: TalkerState

    @property
    def stopped(self) -> Tensor:
        return self.state.stopped

    def due(self, token: Tensor, fresh: Tensor) -> Tensor:
        """As `Clock`.

        Where the chance is spread over some steps none of them is likely, so what counts is whether the token would
        have come by now. Before the last one can be out there is no chance.
        """
        nats = F.softplus(self.timing(self.state.out, token).float()).detach() * (self.state.rest <= 0)
        self.state.waited.copy_(torch.where(fresh, 0.0, self.state.waited) + nats)
        return (self.state.waited > EVEN) | (self.timing.joined[token] > 0)
