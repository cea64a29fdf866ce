"""The step on a GPU as one CUDA graph: the same operations without the cost of launching each.

A step is over a thousand small operations, each of which would have to be launched by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.models.step import DuplexState, DuplexStep, StepOut
from s2s.nn.sampling import Controls
from s2s.streaming import clone, leaves

OFTEN = 4
"""Steps of the same memory, behind which more of them are to be expected."""

_MOST = 256  # graphs; an engine has one for each number of rows, and that for each of its groups


@dataclass(frozen=True)
class _Recorded:
    """A step as a graph, which reads `wav` and writes `out`."""

    graph: torch.cuda.CUDAGraph
    wav: Tensor
    out: StepOut


class GraphedStep:
    """A `Step` that gives what its `DuplexStep` gives, on a GPU with less to launch; on a CPU it is that step.

    A graph works on the very memory it was made with, so there is one for each state and its controls, whose addresses
    never change (law 4 of `streaming`). It is made once a state has come a few times, which takes a second; states that
    are soon thrown away get none.
    """

    def __init__(self, step: DuplexStep):
        self._step = step
        self._seen: dict[tuple[int, ...], int] = {}
        self._graphs: dict[tuple[int, ...], _Recorded] = {}
        self.step_size, self.sample_rate = step.step_size, step.sample_rate

    def init_state(self, rows: int) -> DuplexState:
        return self._step.init_state(rows)

    def wait(self, state: DuplexState, waits: Tensor) -> None:
        self._step.wait(state, waits)

    def __call__(self, wav: Tensor, state: DuplexState, controls: Controls) -> StepOut:
        # A view of fewer rows begins at the same addresses.
        memory = (len(wav), *(leaf.data_ptr() for leaf in (*leaves(state), *vars(controls).values())))
        recorded = self._graphs.get(memory)
        if recorded is None:
            if not wav.is_cuda or len(self._graphs) >= _MOST:
                return self._step(wav, state, controls)
            count = self._seen[memory] = self._seen.get(memory, 0) + 1
            if count <= OFTEN:
                return self._step(wav, state, controls)
            recorded = self._graphs[memory] = self._record(wav, state, controls)
        with torch.inference_mode():
            recorded.wav.copy_(wav)
            recorded.graph.replay()
            out = recorded.out
            return StepOut(out.wav.clone(), {name: ids.clone() for name, ids in out.text.items()})

    @torch.inference_mode()
    def _record(self, wav: Tensor, state: DuplexState, controls: Controls) -> _Recorded:
        """The graph of a step; recording runs nothing, so the state stays as it is."""
        inputs = wav.clone()
        side = torch.cuda.Stream(wav.device)
        side.wait_stream(torch.cuda.current_stream(wav.device))
        with torch.cuda.stream(side):  # what libraries make on first use must not fall into the recording
            self._step.tick(inputs, clone(state), controls)
        torch.cuda.current_stream(wav.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._step.tick(inputs, state, controls)
        return _Recorded(graph, inputs, out)
