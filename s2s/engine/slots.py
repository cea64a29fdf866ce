"""Slots: what all rows of an engine remember and how they sample. Live rows are always the first ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from s2s.models.step import Step
from s2s.nn.sampling import Controls
from s2s.streaming import (
    State,
    clone,
    leaves,
    map_leaves,
    move_row,
    put_rows,
    reset_rows,
    rewritten_leaves,
    take_rows,
)


@dataclass
class Rows:
    """Some rows: the state of their step and their controls, which stay together."""

    state: State
    controls: Controls


class Slots:
    """A dense prefix of `count` live rows; the rows behind it belong to nobody and hold nothing of anybody.

    All views are of one state whose addresses never change.
    """

    def __init__(self, step: Step, num_rows: int):
        self.num_rows, self.count = num_rows, 0
        self._step = step
        state = step.init_state(num_rows)
        self._device = leaves(state)[0].device
        zeros = torch.zeros(num_rows, dtype=torch.long, device=self._device)
        self._rows = Rows(state, Controls(zeros.float(), zeros.clone(), zeros))
        self._before = clone(self._rows)
        self._now_and_before = list(zip(leaves(self._rows), leaves(self._before), strict=True))
        rings = {id(leaf) for leaf in rewritten_leaves(self._rows)}
        self._rings = [(now, before) for now, before in self._now_and_before if id(now) in rings]
        self._others = [(now, before) for now, before in self._now_and_before if id(now) not in rings]
        self._whole: frozenset[int] = frozenset()
        self._views: dict[tuple[int, int], Rows] = {}

    def join(self, controls: Controls, opening: bool = True) -> None:
        """Make the next row live: a fresh one that samples by `controls` [1]; without `opening` its agent waits.

        Raises ValueError, and takes nobody in, where the step cannot wait.
        """
        assert self.count < self.num_rows
        # A row that nobody had was run to fill up the others.
        reset_rows(self._rows, slice(self.count, self.count + 1))
        put_rows(self._rows.controls, [self.count], map_leaves(lambda new: new.to(self._device), controls))
        if not opening:
            row = self.view(self.count, self.count + 1)
            self._step.wait(row.state, torch.ones_like(row.controls.seed, dtype=torch.bool))
        self.count += 1

    def leave(self, row: int) -> None:
        """Give a row back: the last live row moves into it, and what it held is gone."""
        assert 0 <= row < self.count
        self.count -= 1
        if row != self.count:
            move_row(self._rows, self.count, row)
        reset_rows(self._rows, slice(self.count, self.count + 1))
        reset_rows(self._before, slice(self.count, None))

    def view(self, start: int, stop: int) -> Rows:
        """Rows start ... stop - 1; updates of the view are updates of the rows."""
        if (start, stop) not in self._views:
            self._views[start, stop] = map_leaves(lambda leaf: leaf[start:stop], self._rows)
        return self._views[start, stop]

    def clear(self) -> None:
        """Make all rows fresh ones that nobody has."""
        self.count = 0
        reset_rows(self._rows, slice(None))
        reset_rows(self._before, slice(None))

    def take(self, row: int, num_rows: int) -> Rows:
        """A copy of one row, followed by fresh ones up to `num_rows`."""
        rows: Rows = take_rows(self._rows, [row] * num_rows)
        reset_rows(rows, slice(1, None))
        return rows

    def put(self, row: int, rows: Rows) -> None:
        """Replace one row by the first of `rows`."""
        put_rows(self._rows, [row], take_rows(rows, [0]))

    @torch.no_grad()
    def remember(self, whole: Iterable[int] = ()) -> None:
        """Keep the live rows as they are for `undo`, those of `whole` to the last bit.

        Of the others what the next step writes anew may change, which is nearly all of a row and takes long to copy: an
        `undo` of these has to be followed by that step.
        """
        self._whole = frozenset(whole)
        for now, before in self._others:
            before[: self.count].copy_(now[: self.count])
        for now, before in self._rings:
            for row in self._whole:
                before[row].copy_(now[row])

    @torch.no_grad()
    def undo(self, rows: list[int]) -> None:
        """Bring live rows back to where they were at the last `remember`."""
        for now, before in self._others:
            for row in rows:
                now[row].copy_(before[row])
        for now, before in self._rings:
            for row in self._whole.intersection(rows):
                now[row].copy_(before[row])

    def is_finite(self, row: int) -> bool:
        """Whether every number that a row remembers is one."""
        # A sum is one reading and no copy, and as little a number as anything in it.
        floats = [now[row].sum() for now, _ in self._now_and_before if now.is_floating_point()]
        return all(bool(total.isfinite()) for total in floats)
