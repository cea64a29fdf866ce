"""The step as one frozen graph per number of rows: the same operations without the cost of calling each from Python.

On a CPU a step is two thousand small operations, and calling them takes longer than computing them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.cpu import _is_avx2_supported

from s2s.models.step import DuplexState, DuplexStep, StepOut
from s2s.nn.packed import for_live
from s2s.nn.sampling import Controls
from s2s.streaming import State, clone, leaves, map_leaves

Values = dict[str, Tensor]
Work = Callable[[Values, DuplexState], Values]
"""A function of named tensors and a state, which it updates in place."""


class TracedStep:
    """A `Step` that gives what its `DuplexStep` gives; with `int8` nearly that, with less to read from memory.

    A graph is made when a number of rows is met for the first time, which takes seconds: `prepare` does it early. Rows
    that are all greedy have a graph of their own, which saves what sampling costs.
    """

    def __init__(self, step: DuplexStep, int8: bool = False):
        step = live_step(step, int8)
        self._step = step
        self._graphs: dict[tuple[int, bool], Work] = {}
        self.step_size, self.sample_rate = step.step_size, step.sample_rate

    def init_state(self, rows: int) -> DuplexState:
        return self._step.init_state(rows)

    def wait(self, state: DuplexState, waits: Tensor) -> None:
        self._step.wait(state, waits)

    def prepare(self, controls: Controls) -> None:
        """Make the graph for as many rows as these and for how they sample now."""
        rows, greedy = len(controls.temperature), not values_of(controls)
        if (rows, greedy) not in self._graphs:
            state = self._step.init_state(rows)
            wav = torch.zeros(rows, 1, self.step_size, dtype=leaves(state)[0].dtype, device=leaves(state)[0].device)
            controls = Controls.uniform(rows, temperature=0.0 if greedy else 1.0, device=str(wav.device))
            self._graphs[rows, greedy] = frozen(self._step, self._tick, {"wav": wav} | values_of(controls), state)

    def __call__(self, wav: Tensor, state: DuplexState, controls: Controls) -> StepOut:
        self.prepare(controls)
        values = values_of(controls)
        with torch.inference_mode():
            out = self._graphs[len(wav), not values]({"wav": wav} | values, state)
        return StepOut(out.pop("wav"), out)

    def _tick(self, values: Values, state: DuplexState) -> Values:
        out = self._step.tick(values["wav"], state, controls_of(values))
        return {"wav": out.wav} | out.text


def live_step(step: DuplexStep, int8: bool) -> DuplexStep:
    """The same step on modules for inference only, with 8-bit products if wanted."""
    if not isinstance(step.codec, nn.Module):
        raise ValueError(f"the codec is a {type(step.codec).__name__}, which cannot be traced")
    if not int8 or not _is_avx2_supported():
        return step.on(for_live(step.codec, int8), for_live(step.model, int8))
    from s2s.models.compiled import COMPILED, CompiledModel  # take numba with them

    codec, model = for_live(step.codec, int8, COMPILED), for_live(step.model, int8, COMPILED)
    # Which codes mean silence is decided by the exact codec, like the tokens that the model was trained on.
    return step.on(codec, CompiledModel(model))


def values_of(controls: Controls) -> Values:
    """Sampling controls as named tensors: none at all where every row is greedy.

    On a GPU that is never asked, as the answer would have to be waited for.
    """
    if controls.temperature.device.type == "cpu" and not bool((controls.temperature > 0).any()):
        return {}
    return vars(controls)


def controls_of(values: Values) -> Controls | None:
    """The sampling controls among named tensors; None: every row is greedy."""
    if "temperature" not in values:
        return None
    return Controls(values["temperature"], values["top_k"], values["seed"])


@torch.no_grad()
def frozen(step: DuplexStep, work: Work, values: Values, state: DuplexState) -> Work:
    """`work`, which uses the step's modules, as a graph for inputs of these shapes; `values` and `state` stay as is."""
    flat = _Flat(step, work, list(values), state).eval()
    arguments = (*values.values(), *leaves(clone(state)))
    with warnings.catch_warnings():
        # Shapes are fixed by the number of rows, so the branches that tracing warns about never go another way.
        warnings.simplefilter("ignore")
        graph = torch.jit.freeze(torch.jit.trace(flat, arguments, check_trace=False))
        for _ in range(2):  # the first runs of a graph still optimise it
            graph(*arguments)
    given = list(values)
    latest, tensors = state, leaves(state)

    def run(values: Values, state: DuplexState) -> Values:
        nonlocal latest, tensors
        if state is not latest:  # whose tensors stay the same for as long as it lives
            latest, tensors = state, leaves(state)
        # `flat` holds the modules, whose weights a graph of kernels only has by number.
        return dict(zip(flat.results, graph(*(values[name] for name in given), *tensors), strict=True))

    return run


class _Flat(nn.Module):
    """Work as a function of tensors alone, the form that can be traced."""

    def __init__(self, step: DuplexStep, work: Work, names: list[str], like: DuplexState):
        super().__init__()
        self.codec, self.model = step.codec, step.model
        self._work, self._names, self._like = work, names, like
        self.results: list[str] = []

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = len(self._names)
        out = self._work(dict(zip(self._names, tensors[:given], strict=True)), _rebuild(self._like, tensors[given:]))
        self.results = list(out)
        return tuple(out.values())


def _rebuild(like: State, tensors: tuple[Tensor, ...]) -> State:
    remaining = iter(tensors)
    return map_leaves(lambda leaf: next(remaining), like)
