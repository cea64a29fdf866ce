"""Live calls: callers who react, each a row of one step, on a clock that waits for nobody; the loop of a live call.

A caller that hangs up makes room for the next one, so that all rows are busy until the callers run out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from s2s.models.step import Step
from s2s.nn.sampling import Controls
from s2s.streaming import State, reset_rows


class Talks(Protocol):
    """A caller. opening: the agent speaks first; seed: of the agent's sampling in this call."""

    @property
    def opening(self) -> bool: ...

    @property
    def seed(self) -> int: ...

    def say(self, start: int, heard: np.ndarray) -> np.ndarray | None:
        """The packet that begins at `start`, as long as `heard` [N], what the agent said during the one before.

        None: the caller hangs up.
        """
        ...


C = TypeVar("C", bound=Talks)


@dataclass
class LiveCall(Generic[C]):
    """A call that is over: what arrived of the caller and what the agent said [N], both on the caller's clock.

    text: ids per text stream, one per step; what is said at step s is heard during frame s + 1.
    """

    caller: C
    heard: np.ndarray
    agent: np.ndarray
    sample_rate: int
    text: dict[str, list[int]]


@dataclass
class _Row(Generic[C]):
    caller: C
    heard: list[np.ndarray] = field(default_factory=list)
    said: list[np.ndarray] = field(default_factory=list)
    text: dict[str, list[int]] = field(default_factory=dict)

    def finish(self, sample_rate: int, size: int) -> LiveCall[C]:
        silence = np.zeros(size, np.float32)
        heard, said = np.concatenate([*self.heard, silence]), np.concatenate([silence, *self.said])
        return LiveCall(self.caller, heard, said, sample_rate, self.text)


def live_calls(
    step: Step, callers: Iterable[C], temperature: float = 0.0, top_k: int = 50, rows: int = 16
) -> Iterator[LiveCall[C]]:
    """Let every caller talk to the step, `rows` of them at a time, and yield each call when it is over."""
    waiting = iter(callers)
    state, controls = step.init_state(rows), Controls.uniform(rows, temperature, top_k)
    taken: list[_Row[C] | None] = [_join(step, state, controls, row, waiting) for row in range(rows)]
    size = step.step_size
    while any(row is not None for row in taken):
        wav = torch.zeros(rows, 1, size)
        for number in range(rows):
            while (row := taken[number]) is not None:
                packet = row.caller.say(len(row.heard) * size, _before(row, size))
                if packet is not None:
                    row.heard.append(packet)
                    wav[number, 0] = torch.from_numpy(packet)
                    break
                yield row.finish(step.sample_rate, size)
                taken[number] = _join(step, state, controls, number, waiting)
        if any(row is not None for row in taken):
            _tick(step, wav, state, controls, taken)


def _join(step: Step, state: State, controls: Controls, number: int, waiting: Iterator[C]) -> _Row[C] | None:
    caller = next(waiting, None)
    if caller is None:
        return None
    reset_rows(state, [number])
    controls.seed[number] = caller.seed
    waits = torch.zeros(len(controls.seed), dtype=torch.bool)
    waits[number] = not caller.opening
    step.wait(state, waits)
    return _Row(caller)


def _before(row: _Row[C], size: int) -> np.ndarray:
    """What is heard of the agent while the caller says the packet before the next one."""
    return row.said[-2] if len(row.said) > 1 else np.zeros(size, np.float32)


def _tick(step: Step, wav: torch.Tensor, state: State, controls: Controls, taken: list[_Row[C] | None]) -> None:
    out = step(wav, state, controls)
    said = out.wav[:, 0].float().numpy().copy()
    ids = {name: values.tolist() for name, values in out.text.items()}
    for number, row in enumerate(taken):
        if row is not None:
            row.said.append(said[number])
            for name, values in ids.items():
                row.text.setdefault(name, []).append(values[number])
