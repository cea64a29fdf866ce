"""How a talker is taught to follow its text: recordings cut at words and put together anew.

Replies of a desk are few, so that the sound of one tells how it goes on. Where any words may follow any others, only
the text does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.data.align import AGENT_LEAD_STEPS
from s2s.models.ahead import REPLY_STEPS
from s2s.models.talker import Timing
from s2s.train.ahead import neighbours

JOINT_SHARE = 0.5
"""Of words, those in front of which a recording is cut."""
HIDDEN_STEPS = 4
"""How many codes in a row are hidden."""
OWN_STEPS, OWN_ROUNDS = 25, 2
"""For how long a talker hears its own codes instead of the recording's, and how often it says them anew, so that they
follow from its own as in a call. Source: Duckworth et al. 2019, "Parallel Scheduled Sampling"."""
STOP_STEPS = 12
"""For how long the decision to break off counts."""


@dataclass(frozen=True)
class Lesson:
    """What a talker learns from: text [B, S], past and codes [B, K, S] of the steps before and of these, what each code
    counts [B, K, S] and which steps are `chosen` to be said [B, S]."""

    text: Tensor
    past: Tensor
    codes: Tensor
    weight: Tensor
    chosen: Tensor


def spliced(lesson: Lesson, vocab_size: int) -> Lesson:
    """The words of all rows in another order.

    A word is what lies between its first token and that of the next one, in its sound `AGENT_LEAD_STEPS` later.
    """
    rows, size = lesson.text.shape
    said = (lesson.text < vocab_size).flatten()
    cut = said & ~said.roll(1) & (torch.rand(rows * size, device=said.device) < JOINT_SHARE)
    # A number for each part, and as many as there might be, so that a GPU is not waited for.
    order = torch.rand(rows * size + 1, device=said.device)[cut.cumsum(0)].sort(stable=True).indices
    sound = (order.roll(AGENT_LEAD_STEPS) + AGENT_LEAD_STEPS) % (rows * size)

    def moved(x: Tensor, order: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1)[:, order].unflatten(1, (rows, size)).transpose(0, 1)

    codes, weight = moved(lesson.codes, sound), moved(lesson.weight, sound)
    past = torch.cat([lesson.past[..., :1], codes[..., :-1]], dim=-1)
    text, chosen = moved(lesson.text[:, None], order)[:, 0], moved(lesson.chosen[:, None], sound)[:, 0]
    return Lesson(text, past, codes, weight, chosen)


def timing_loss(timing: Timing, voice: Tensor, text: Tensor, valid: Tensor) -> Tensor:
    """That of when the next word of a reply begins: voice [B, S, W] of steps that are `valid` [B, S], text [B, S].

    Behind the last token of a reply nothing is asked, whether it goes on is not for the talker to know; nor where a
    word is not all written yet.
    """
    size, vocab_size = text.shape[-1], len(timing.joined)
    said = text < vocab_size
    following, before = neighbours(said)
    token = text.gather(-1, following.clamp(max=size - 1)).clamp(max=vocab_size - 1)
    asked = (following - before <= REPLY_STEPS) & (following < size) & (timing.joined[token] == 0)
    logits = timing(timing.out(voice[:, :-1])[..., 0], token[:, 1:]).float()
    losses = F.binary_cross_entropy_with_logits(logits, said[:, 1:].float(), reduction="none")
    weight = (asked[:, 1:] & valid[:, :-1]).float()
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def durations(timing: Timing, text: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens a word follows within a reply [N] and how many steps later it begins [N].

    Args: text [B, S]; valid [B, S]: steps in which the agent is heard.
    """
    said = text < len(timing.joined)
    steps, (_, before) = torch.arange(text.shape[-1], device=text.device), neighbours(said)
    lasted = steps - before
    begins = said & valid & (timing.joined[text.clamp(max=len(timing.joined) - 1)] == 0) & (lasted <= REPLY_STEPS)
    tokens = text.gather(-1, before.clamp(min=0))
    return tokens[begins], lasted[begins]


def stop_loss(logits: Tensor, valid: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """That of where the agent breaks off: logits [B, S], steps that are `valid` [B, S]."""
    stopped, active = next_frame(batch["agent_stopped"]), next_frame(batch["agent_active"])
    losses = F.binary_cross_entropy_with_logits(logits.float(), stopped.float(), reduction="none")
    # For how long it stays silent is none of this decision's business.
    weight = (active | stopped & F.pad(active[:, :-STOP_STEPS], (STOP_STEPS, 0))) & valid
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def next_frame(marks: Tensor) -> Tensor:
    """Marks of frames [B, T] at the steps that say them [B, S]."""
    return F.pad(marks[:, 1:], (0, 1))


def shifted(text: Tensor, share: float, pad_id: int) -> Tensor:
    """Tokens [B, S], in a `share` of rows a step earlier or later than the recording has them."""
    dice = torch.rand(len(text), 1, device=text.device)
    earlier, later = F.pad(text[:, 1:], (0, 1), value=pad_id), F.pad(text[:, :-1], (1, 0), value=pad_id)
    return torch.where(dice < share / 2, earlier, torch.where(dice < share, later, text))


def partly_hidden(codes: Tensor, share: float, pad_id: int) -> Tensor:
    """Codes [B, K, S] of which a `share` of steps is hidden, several in a row."""
    return codes.masked_fill(spans(codes, share, HIDDEN_STEPS), pad_id)


def spans(codes: Tensor, share: float, length: int) -> Tensor:
    """A `share` of the steps of codes [B, K, S], about `length` in a row [B, 1, S] bool."""
    starts = torch.rand(len(codes), 1, codes.shape[-1], device=codes.device) < share / length
    return F.max_pool1d(F.pad(starts.float(), (length - 1, 0)), length, stride=1) > 0


def own_past(said: Tensor, past: Tensor) -> Tensor:
    """Codes [B, K, S] of the steps before, as they were `said` in each step [B, K, S]."""
    return torch.cat([past[..., :1], said[..., :-1]], dim=-1)
