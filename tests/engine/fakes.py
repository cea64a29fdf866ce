"""Steps that misbehave, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.models.scripted import NO_TOKEN
from s2s.models.step import EchoState, EchoStep, StepOut
from s2s.nn.sampling import Controls


@dataclass
class SumState:
    """The sum of what each row heard [B] and how many steps it has done [B]."""

    total: Tensor
    position: Tensor


class Greeter(EchoStep):
    """Says a level in each of its first steps, unless it has to wait; then it is an echo that writes `ids`, in turn."""

    def __init__(self, ids: Sequence[int] = (), greeting: int = 3, step_size: int = 40, sample_rate: int = 1000):
        super().__init__(step_size, sample_rate)
        self.ids, self.greeting = [*ids, NO_TOKEN], greeting

    def wait(self, state: EchoState, waits: Tensor) -> None:
        state.position += self.greeting * waits

    def __call__(self, wav: Tensor, state: EchoState, controls: Controls) -> StepOut:
        greets = (state.position < self.greeting)[:, None, None]
        number = (state.position - self.greeting).clamp(-1, len(self.ids) - 1)
        out = super().__call__(wav, state, controls)
        ids = torch.tensor(self.ids)[number]
        return StepOut(torch.where(greets, 0.5, out.wav), {"user_text": ids, "agent_text": ids})


class SumStep:
    """Says the mean of all it has heard, so that every step depends on all before it.

    `trouble` is called with wav [B, 1, step_size], the state and the output before the state has been updated, in which
    it may change the output or raise; `error` [B] is added to the output, a function of the number of rows.
    """

    def __init__(
        self,
        trouble: Callable[[Tensor, SumState, Tensor], None] = lambda wav, state, said: None,
        error: Callable[[int], Tensor] = torch.zeros,
        step_size: int = 40,
        sample_rate: int = 1000,
    ):
        self.step_size, self.sample_rate = step_size, sample_rate
        self.trouble, self.error = trouble, error
        self.sizes: list[int] = []

    def wait(self, state: SumState, waits: Tensor) -> None: ...

    def init_state(self, rows: int) -> SumState:
        return SumState(torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.long))

    def __call__(self, wav: Tensor, state: SumState, controls: Controls) -> StepOut:
        self.sizes.append(len(wav))
        state.total += wav.double().mean(dim=(1, 2))
        state.position += 1
        said = (
            (state.total / state.position + self.error(len(wav)))[:, None, None].expand(-1, 1, self.step_size).clone()
        )
        self.trouble(wav, state, said)
        return StepOut(said, {"agent_text": 96 + state.position, "user_text": torch.full_like(state.position, 300)})
