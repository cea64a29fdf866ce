"""Training order that can be saved and restored: the same batches again, at any number of workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning
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
        for batch in _fetch(self.dataset, keys, self._num_workers, self._prefetch):
            self.batch += 1
            yield batch


class FixedLoader:
    """The same batches at every `iter`, from the first on: for validation."""

    def __init__(self, dataset: Dataset[Any], keys: Sequence[Any], num_workers: int = 0, prefetch: int = 4) -> None:
        self.dataset = dataset
        self._keys, self._num_workers, self._prefetch = keys, num_workers, prefetch

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Any]:
        return iter(_fetch(self.dataset, self._keys, self._num_workers, self._prefetch))


def _fetch(dataset: Dataset[Any], keys: Sequence[Any], num_workers: int, prefetch: int) -> DataLoader[Any]:
    """Batches `dataset[key]` in the order of keys."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_the_trainer,
        # Its own generator: starting workers must not draw from the global one, which the model trains with.
        generator=torch.Generator().manual_seed(0),
    )


def _leave_signals_to_the_trainer(worker: int) -> None:
    # A signal to the whole process group would end the workers first, and the trainer could not save.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch


class ResumableDataModule(lightning.LightningDataModule):
    """A data module whose checkpoint state is the position of its training loader; subclasses set `loader`."""

    def __init__(self) -> None:
        super().__init__()
        self.loader: ResumableLoader | None = None
        self._position: dict[str, Any] = {}

    def rank_and_world(self, batch_size: int) -> tuple[int, int]:
        """(rank, number of processes); ValueError unless the processes share `batch_size` rows evenly."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if batch_size % world:
            raise ValueError(f"batch_size {batch_size} must be a multiple of the {world} processes")
        return rank, world

    def resume(self, loader: ResumableLoader) -> ResumableLoader:
        """Keeps `loader` as the one whose position counts, and moves it to the restored position."""
        self.loader = loader
        if self._position:
            loader.load_state_dict(self._position)
        return loader

    def state_dict(self) -> dict[str, Any]:
        return dict(self.loader.state_dict()) if self.loader else dict(self._position)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position = dict(state_dict)
        if self.loader:
            self.loader.load_state_dict(self._position)
