"""Batch: one tick of all rows. Samples in, samples and token ids out; tensors stay in here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2s.audio.pcm import float_to_int16, int16_to_float
from s2s.engine.slots import Rows, Slots
from s2s.engine.warmup import new_input
from s2s.models.step import Step, StepOut
from s2s.nn.sampling import Controls

logger = logging.getLogger(__name__)

Pcm = NDArray[np.int16]

CHECK_EVERY = 4
"""Ticks between two looks at what rows remember: each reads all of a row, a few per cent of a small model's step."""


@dataclass(frozen=True)
class Said:
    """What one row said in a step: pcm [step_size] and an id per text stream."""

    pcm: Pcm
    ids: dict[str, int]


class Batch:
    """Runs the step on the smallest number of rows, of those allowed, that holds the live ones."""

    def __init__(self, step: Step, max_rows: int, buckets: Sequence[int]):
        """Args: buckets: the numbers of rows allowed, ascending; none: every row is run by itself."""
        self._step, self._buckets = step, tuple(buckets)
        self.slots = Slots(step, max(max_rows, *self._buckets) if self._buckets else max_rows)
        self._wav = new_input(step, self.slots.view(0, self.slots.num_rows).state, self.slots.num_rows)
        self._ticks = 0

    def rehearse(self, times: int) -> None:
        """Before the first call: run every number of rows so often, in the very memory that calls will have."""
        for size in self._buckets:
            for _ in range(times):
                self._call(self._wav[:size], self.slots.view(0, size))
        self.slots.clear()

    @torch.no_grad()
    def run(self, inputs: Sequence[Pcm | None]) -> list[Said | Exception | None]:
        """One step of every live row, input [step_size] each; None: the row waits, and nothing of it changes.

        Returns:
            what each row said, None where it waited, or the exception because of which it cannot go on; the others can.
        """
        assert len(inputs) == self.slots.count
        if all(pcm is None for pcm in inputs):
            return [None] * len(inputs)
        heard = np.zeros(self._wav[:, 0].shape, np.float32)
        for row, pcm in enumerate(inputs):
            if pcm is not None:
                heard[row] = int16_to_float(pcm)
        self._wav[:, 0] = torch.from_numpy(heard)  # at once: a GPU takes as long for one row as for all
        results = self._run_together(inputs) if self._buckets else self._run_each(inputs)
        return self._checked(results)

    def _run_together(self, inputs: Sequence[Pcm | None]) -> list[Said | Exception | None]:
        bucket = next(size for size in self._buckets if size >= len(inputs))
        waiting = [row for row, pcm in enumerate(inputs) if pcm is None]
        self.slots.remember(waiting)
        try:
            said = self._said(self._call(self._wav[:bucket], self.slots.view(0, bucket)), len(inputs))
        except Exception as error:
            logger.warning("a step of %d rows failed, each is tried alone: %r", len(inputs), error)
            self.slots.undo(list(range(len(inputs))))
            return [None if pcm is None else self._run_alone(row) for row, pcm in enumerate(inputs)]
        self.slots.undo(waiting)
        return [None if pcm is None else result for pcm, result in zip(inputs, said, strict=True)]

    def _run_alone(self, row: int) -> Said | Exception:
        """One row without its neighbours, in the smallest bucket: the same bits as among them."""
        size = self._buckets[0]
        rows = self.slots.take(row, size)
        wav = torch.zeros_like(self._wav[:size])
        wav[0] = self._wav[row]
        try:
            said = self._said(self._call(wav, rows), 1)[0]
        except Exception as error:
            return error
        self.slots.put(row, rows)
        return said

    def _run_each(self, inputs: Sequence[Pcm | None]) -> list[Said | Exception | None]:
        results: list[Said | Exception | None] = []
        for row, pcm in enumerate(inputs):
            try:
                view = self.slots.view(row, row + 1)
                results.append(None if pcm is None else self._said(self._call(self._wav[row : row + 1], view), 1)[0])
            except Exception as error:
                results.append(error)
        return results

    def _call(self, wav: Tensor, rows: Rows) -> StepOut:
        # The step gets copies of nothing: controls, too, are views of the rows.
        return self._step(wav, rows.state, Controls(**vars(rows.controls)))

    def _said(self, out: StepOut, count: int) -> list[Said | Exception]:
        """The first `count` rows of a step's output."""
        wav = out.wav[:count, 0].float().cpu().numpy()
        finite = np.isfinite(wav).all(axis=1)
        pcm = float_to_int16(wav)
        ids = {name: tokens[:count].tolist() for name, tokens in out.text.items()}
        return [
            Said(pcm[row].copy(), {name: tokens[row] for name, tokens in ids.items()})
            if finite[row]
            else FloatingPointError("the step's output is not finite")
            for row in range(count)
        ]

    def _checked(self, results: list[Said | Exception | None]) -> list[Said | Exception | None]:
        """Look into the memory of one row now and then, in turn: a model that lost its mind can still say numbers."""
        self._ticks += 1
        turn, rest = divmod(self._ticks, CHECK_EVERY)
        row = turn % len(results)
        if not rest and isinstance(results[row], Said) and not self.slots.is_finite(row):
            results[row] = FloatingPointError("the step's state is not finite")
        return results
