"""The step as one frozen graph per number of rows: the same operations without the cost of calling each from Python.

On a CPU a step is two thousand small operations, and calling them takes longer than computing them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from s2s.models.step import DuplexState, DuplexStep, StepOut
from s2s.nn.packed import packed
from s2s.nn.sampling import Controls
from s2s.streaming import State, clone, leaves, map_leaves


class TracedStep:
    """A `Step` that gives what its `DuplexStep` gives; with `int8`, what that gives with 8-bit products.

    A graph is made when a number of rows is met for the first time, which takes a few seconds: `prepare` does it early.
    """

    def __init__(self, step: DuplexStep, int8: bool = False):
        if int8:
            if not isinstance(step.codec, nn.Module):
                raise ValueError(f"the codec is a {type(step.codec).__name__}, which cannot be packed")
            # Which codes mean silence is decided by the exact codec, like the tokens that the model was trained on.
            step = DuplexStep(packed(step.codec), packed(step.model), step.silence)
        self._step = step
        self._graphs: dict[int, Callable[..., tuple[Tensor, ...]]] = {}
        self._text = [stream.name for stream in step.model.text_streams]
        self.step_size, self.sample_rate = step.step_size, step.sample_rate

    def init_state(self, rows: int) -> DuplexState:
        return self._step.init_state(rows)

    def prepare(self, rows: int) -> None:
        """Make the graph for this many rows now."""
        if rows not in self._graphs:
            self._graphs[rows] = self._trace(rows)

    def __call__(self, wav: Tensor, state: DuplexState, controls: Controls) -> StepOut:
        self.prepare(len(wav))
        with torch.inference_mode():
            sampling = (controls.temperature, controls.top_k, controls.seed)
            out, *text = self._graphs[len(wav)](wav, *sampling, *leaves(state))
        return StepOut(out, dict(zip(self._text, text, strict=True)))

    @torch.no_grad()
    def _trace(self, rows: int) -> Callable[..., tuple[Tensor, ...]]:
        state = self._step.init_state(rows)
        wav = torch.zeros(rows, 1, self.step_size, device=leaves(state)[0].device)
        controls = Controls.uniform(rows, temperature=1.0, device=str(wav.device))
        arguments = (wav, controls.temperature, controls.top_k, controls.seed, *leaves(clone(state)))
        with warnings.catch_warnings():
            # Shapes are fixed by the number of rows, so the branches that tracing warns about never go another way.
            warnings.simplefilter("ignore")
            graph = torch.jit.freeze(torch.jit.trace(_Flat(self._step, state).eval(), arguments, check_trace=False))
            for _ in range(2):  # the first runs of a graph still optimise it
                graph(*arguments)
        return graph  # type: ignore[no-any-return]


class _Flat(nn.Module):
    """A step as a function of tensors alone."""

    def __init__(self, step: DuplexStep, like: DuplexState):
        super().__init__()
        self.codec, self.model = step.codec, step.model
        self._step, self._like = [step], like  # in a list: torch must not take it for a part of the module

    def forward(self, wav: Tensor, temperature: Tensor, top_k: Tensor, seed: Tensor, *state: Tensor) -> tuple[Any, ...]:
        out = self._step[0].tick(wav, _rebuild(self._like, state), Controls(temperature, top_k, seed))
        return (out.wav, *out.text.values())


def _rebuild(like: State, tensors: tuple[Tensor, ...]) -> State:
    remaining = iter(tensors)
    return map_leaves(lambda leaf: next(remaining), like)
