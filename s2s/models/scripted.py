"""A step that follows a script: it plays an answer a set time after the caller's last sound, so that the time is known.

For measuring what is around a model, and for tests of calls: engines, transports and meters cannot tell it from one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.models.step import StepOut
from s2s.nn.sampling import Controls

NO_TOKEN = 2**31 - 1
"""An id that no vocabulary holds: this step adds no text."""


@dataclass(frozen=True)
class Script:
    """What to play and when.

    answer: wav [N]. delay_s: from the caller's last sound to the answer's first sample, on the clock on which the sound
    of a step is heard while the next frame is spoken; what can only be known later starts as soon as it is. A sound is
    a sample louder than `level`. yield_after_s: how long the caller has to speak over the answer to stop it; None: it
    is never stopped. What the caller says over an answer that goes on gets no answer. text: ids per text stream, one
    per step from the answer's first step on.
    """

    answer: Tensor
    delay_s: float = 0.2
    yield_after_s: float | None = None
    level: float = 0.01
    text: Mapping[str, Sequence[int]] | None = None

    def __post_init__(self) -> None:
        if self.answer.dim() != 1 or not len(self.answer):
            raise ValueError(f"an answer has the shape [N] with N above 0, got {list(self.answer.shape)}")
        if self.delay_s < 0 or (self.yield_after_s is not None and self.yield_after_s < 0):
            raise ValueError(f"delay_s {self.delay_s} and yield_after_s {self.yield_after_s} cannot be below 0")


@dataclass
class ScriptState:
    """Per row [B], in samples: heard so far; when the answer is due and when it began (0: not); speech over it."""

    heard: Tensor
    due: Tensor
    began: Tensor
    overlap: Tensor


class ScriptedStep:
    """Every row follows the same script by itself."""

    def __init__(self, script: Script, step_size: int = 960, sample_rate: int = 24000):
        self.script, self.step_size, self.sample_rate = script, step_size, sample_rate
        self._delay = round(script.delay_s * sample_rate)
        self._yield_after = None if script.yield_after_s is None else round(script.yield_after_s * sample_rate)
        self._text = {name: torch.tensor([*ids, NO_TOKEN]) for name, ids in (script.text or {}).items()}

    def wait(self, state: ScriptState, waits: Tensor) -> None:
        """A script always waits."""

    def init_state(self, rows: int) -> ScriptState:
        return ScriptState(*(torch.zeros(rows, dtype=torch.long) for _ in range(4)))

    @torch.no_grad()
    def __call__(self, wav: Tensor, state: ScriptState, controls: Controls) -> StepOut:
        if wav.dim() != 3 or list(wav.shape[1:]) != [1, self.step_size]:
            raise ValueError(f"wav has the shape {list(wav.shape)}, a step takes [B, 1, {self.step_size}]")
        self._listen(wav[:, 0].abs() > self.script.level, state)
        begin = state.heard + self.step_size  # when the first sample of this step is heard
        self._start(begin, state)
        said, text = self._play(begin, state)
        over = begin + self.step_size >= state.began + len(self.script.answer)
        state.began.masked_fill_(over, 0)
        state.heard += self.step_size
        return StepOut(said[:, None], text)

    def _listen(self, loud: Tensor, state: ScriptState) -> None:
        """Stop an answer that is spoken over, and decide when the next one is due: loud [B, step_size]."""
        sounds, playing, size = loud.any(dim=1), state.began > 0, self.step_size
        first, end = loud.long().argmax(dim=1), size - loud.flip(1).long().argmax(dim=1)
        spoken_over = torch.where(sounds, state.overlap + end - first, (state.overlap - size).clamp(min=0))
        state.overlap.copy_(torch.where(playing, spoken_over, 0))
        if self._yield_after is not None:
            yields = playing & sounds & (state.overlap >= self._yield_after)
            state.began.masked_fill_(yields, 0)
            playing = playing & ~yields
        state.due.copy_(torch.where(sounds & ~playing, state.heard + end + self._delay, state.due))

    def _start(self, begin: Tensor, state: ScriptState) -> None:
        starts = (state.due > 0) & (state.began == 0) & (state.due < begin + self.step_size)
        state.began.copy_(torch.where(starts, torch.maximum(state.due, begin), state.began))
        state.due.masked_fill_(starts, 0)
        state.overlap.masked_fill_(starts, 0)

    def _play(self, begin: Tensor, state: ScriptState) -> tuple[Tensor, dict[str, Tensor]]:
        """What is heard from `begin` [B] on: wav [B, step_size] and an id per text stream [B]."""
        answer, playing = self.script.answer, state.began > 0
        at = (begin - state.began)[:, None] + torch.arange(self.step_size)
        inside = playing[:, None] & (at >= 0) & (at < len(answer))
        said = torch.where(inside, answer[at.clamp(0, len(answer) - 1)], 0.0)
        number = (begin - state.began + self.step_size - 1).div(self.step_size, rounding_mode="floor")
        text = {}
        for name, ids in self._text.items():
            spoken = torch.where(playing & (number >= 0), number, len(ids) - 1)
            text[name] = ids[spoken.clamp(max=len(ids) - 1)]
        return said, text
