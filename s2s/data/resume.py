"""A loader whose position can be saved and restored: the same batches in the same order, at any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


class ResumableLoader:
    """Endless order of batches, an epoch per `iter`, each batch fetched by its key.

    `keys(epoch)` lists the keys of an epoch's batches (the same number in every epoch, a pure function); `dataset[key]`
    makes the whole batch, also a pure function. `iter` continues where the last one stopped, so a saved position is
    two integers. Workers prefetch ahead of the position, which counts only batches handed out.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        keys: Callable[[int], Sequence[Any]],
        num_batches: int,
        num_workers: int = 0,
        prefetch: int = 4,
    ) -> None:
        if num_batches < 1:
            raise ValueError("an epoch must hold at least one batch: fewer rows than the batch size?")
        self.dataset = dataset
        self.epoch = 0
        self.batch = 0
        self._keys = keys
        self._num_batches = num_batches
        self._num_workers = num_workers
        self._prefetch = prefetch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._num_batches

    def __iter__(self) -> Iterator[Any]:
        if self.batch >= self._num_batches:
            self.epoch, self.batch = self.epoch + 1, 0
        return self._rest_of_epoch()

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])

    def _rest_of_epoch(self) -> Iterator[Any]:
        keys = list(self._keys(self.epoch))[self.batch :]
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=keys,
            num_workers=self._num_workers,
            prefetch_factor=self._prefetch if self._num_workers else None,
            collate_fn=_as_it_is,
            # Its own generator: starting workers must not draw from the global one, which the model trains with.
            generator=torch.Generator().manual_seed(0),
        )
        for batch in loader:
            self.batch += 1
            yield batch


def _as_it_is(batch: Any) -> Any:
    return batch
