"""Recordings through the step: the same loop as a live call, on a clock that waits for nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.models.step import Step, StepOut
from s2s.nn.sampling import Controls
from s2s.streaming import State

QUIET_LEVEL = 10 ** (-50 / 20)  # root mean square of a frame, relative to full scale, below which nobody is heard


@dataclass(frozen=True)
class Tail:
    """How long to go on with silence after the recording, in steps: until all rows were quiet a while, or the limit."""

    limit: int
    quiet: int

    def __post_init__(self) -> None:
        if self.limit < 0 or self.quiet < 1:
            raise ValueError(f"a tail of {self.limit} steps, quiet for {self.quiet}: allowed are 0 and 1 and above")


@dataclass
class Played:
    """What every step gave: wav [B, 1, S * step_size], ids per text stream [B, S], seconds that each step took.

    The sound of step s leaves when frame s of the caller is complete: on the recording's clock it is heard during frame
    s + 1.
    """

    wav: Tensor
    text: dict[str, Tensor]
    seconds: list[float]


@torch.inference_mode()
def ticks(
    step: Step, wav: Tensor, controls: Controls, waits: Tensor | None = None, state: State | None = None
) -> Iterator[tuple[StepOut, float]]:
    """Run recordings [B, 1, N] and then silence without end through a step; its outputs and the seconds they took.

    Args:
        waits: rows [B] bool in which the agent lets the caller speak first; None: it speaks first in all of them.
        state: what has been made ready for the first step; None: a fresh one.
    """
    size = step.step_size
    frames = F.pad(wav, (0, -wav.shape[-1] % size)).split(size, dim=-1) if wav.shape[-1] else ()
    silence = wav.new_zeros(*wav.shape[:-1], size)
    state = step.init_state(len(wav)) if state is None else state
    if waits is not None:
        step.wait(state, waits)
    for frame in chain(frames, repeat(silence)):
        start = time.perf_counter()
        out = step(frame, state, controls)
        yield out, time.perf_counter() - start


def num_steps(step: Step, wav: Tensor) -> int:
    """How many steps a recording [B, 1, N] takes."""
    return -(-wav.shape[-1] // step.step_size)


@torch.inference_mode()
def play(step: Step, wav: Tensor, controls: Controls, tail: Tail = Tail(0, 1), waits: Tensor | None = None) -> Played:
    """Run recordings [B, 1, N] through a step from a fresh state; the last frame is filled with silence.

    In rows where `waits` [B] bool the agent lets the caller speak first; None: it speaks first in all of them.
    """
    outputs, seconds, quiet, length = [], [], 0, num_steps(step, wav)
    for number, (out, took) in enumerate(islice(ticks(step, wav, controls, waits), length + tail.limit)):
        seconds.append(took)
        outputs.append(out)
        if number >= length:
            quiet = quiet + 1 if is_quiet(out.wav) else 0
        if quiet >= tail.quiet:
            break
    if not outputs:
        raise ValueError("there is nothing to play: the recording is empty and so is the tail")
    text = {name: torch.stack([out.text[name] for out in outputs], dim=1) for name in outputs[0].text}
    return Played(torch.cat([out.wav for out in outputs], dim=-1), text, seconds)


def is_quiet(wav: Tensor) -> bool:
    """Whether nobody is heard in a frame [B, 1, step_size]."""
    return bool((wav.square().mean(dim=-1).sqrt() < QUIET_LEVEL).all())
