"""The ring of recent tokens for one new step of B rows, see `s2s.streams.TokenRing`."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2s.kernels.products import compiled


@compiled
def take_in(tokens: Any, first: int, ids: Any) -> None:
    """Make ids [B, k] the newest of k rows from `first` on; tokens [B, R, slots] are stored plus one."""
    newest = tokens.shape[2] - 1
    for b in range(len(ids)):
        for row in range(ids.shape[1]):
            for slot in range(newest):
                tokens[b, first + row, slot] = tokens[b, first + row, slot + 1]
            tokens[b, first + row, newest] = ids[b, row] + 1


@compiled
def at(tokens: Any, slots: Any, start: Any) -> Any:
    """The ids in one slot of each row, slots and start [R] -> [B, R]; `start` where nothing has been stored."""
    count, rows, _ = tokens.shape
    ids = np.empty((count, rows), np.int64)
    for b in range(count):
        for row in range(rows):
            stored = tokens[b, row, slots[row]]
            ids[b, row] = stored - 1 if stored else start[row]
    return ids
