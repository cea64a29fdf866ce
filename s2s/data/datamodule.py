"""The data module of the duplex model: batches of encoded dialogues in an order that resumes exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2s.data.encoded import BatchKey, EncodedDataset, build_arrow
from s2s.data.resume import FixedLoader, ResumableDataModule, ResumableLoader
from s2s.data.shards import ShardInfo, common_info, shard_files


@dataclass(frozen=True)
class DialogueDataConfig:
    """Shards (files or folders) for training and validation, and how batches are made of them.

    `batch_size` counts the rows over all ranks. Dialogues longer than `max_steps` frames are cropped at a random place
    (or at their start). `bucket` batches at a time are sorted by length, so that rows of like length meet; 1 turns that
    off. With `batch_steps` training batches hold about so many frames each instead, many short rows or a few long ones
    of like length, so that whole calls and single sentences teach equally often in each hour; `batch_size` is then only
    that of validation. In a `wrong_starts` share of training rows the agent begins too early or late, see
    `data.wrong_starts`. `cache` is the folder of the mapped copy, by default the one of the first shard.
    """

    shards: tuple[str, ...]
    val_shards: tuple[str, ...] = ()
    cache: str = ""
    batch_size: int = 16
    batch_steps: int = 0
    max_steps: int = 750
    random_crop: bool = True
    bucket: int = 32
    wrong_starts: float = 0.0
    seed: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps", "bucket"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.wrong_starts <= 1:
            raise ValueError(f"wrong_starts {self.wrong_starts} must be 0 to 1, a share of rows")
        if 0 < self.batch_steps < self.max_steps or self.batch_steps < 0:
            raise ValueError(f"batch_steps {self.batch_steps} must be 0 or at least max_steps ({self.max_steps})")


class DialogueDataModule(ResumableDataModule):
    """Batches as `EncodedDataset` gives them; the order is a pure function of (seed, epoch, rank, world)."""

    def __init__(self, config: DialogueDataConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def info(self) -> ShardInfo:
        """What the ids in the batches mean."""
        return common_info(shard_files((*self.config.shards, *self.config.val_shards)))

    def prepare_data(self) -> None:
        for paths in filter(None, (self.config.shards, self.config.val_shards)):
            self._dataset(paths)

    def train_dataloader(self) -> ResumableLoader:
        config = self.config
        rank, world = self.rank_and_world(config.batch_size)
        dataset = self._dataset(config.shards, config.wrong_starts)
        frames = dataset.num_frames
        if not (sizes := batch_sizes(config, frames, world)):
            wanted = world if config.batch_steps else config.batch_size
            raise ValueError(f"{len(dataset)} dialogues do not fill one batch of {wanted}")
        loader = ResumableLoader(
            dataset,
            lambda epoch: [for_rank(key, rank, world) for key in epoch_keys(config, frames, epoch, world)],
            len(sizes),
            config.num_workers,
        )
        return self.resume(loader)

    def val_dataloader(self) -> FixedLoader | list[None]:
        """Every validation dialogue from its start, the longest last, the same batches every time."""
        config = self.config
        if not config.val_shards:
            return []
        rank, world = self.rank_and_world(config.batch_size)
        dataset = self._dataset(config.val_shards)
        order = np.argsort(dataset.num_frames, kind="stable")
        # A part batch at the end is left out where processes would share it unevenly.
        end = len(order) - (len(order) % config.batch_size if world > 1 else 0)
        groups = [order[at : at + config.batch_size] for at in range(0, end, config.batch_size)]
        keys = [for_rank(_key(config, dataset.num_frames, rows, None), rank, world) for rows in groups]
        return FixedLoader(dataset, keys, config.num_workers)

    def _dataset(self, paths: tuple[str, ...], wrong_starts: float = 0.0) -> EncodedDataset:
        files = shard_files(paths)
        cache = Path(self.config.cache) if self.config.cache else files[0].parent
        return EncodedDataset(build_arrow(files, cache), common_info(files), wrong_starts)


def epoch_keys(config: DialogueDataConfig, num_frames: np.ndarray, epoch: int, world: int = 1) -> list[BatchKey]:
    """The batches of an epoch over all ranks: every row at most once, whole batches only, num_frames [rows]."""
    rng = np.random.default_rng((config.seed, epoch))
    lengths = np.minimum(num_frames, config.max_steps)
    sizes = batch_sizes(config, num_frames, world)
    if config.batch_steps:
        # Lengths are blurred a little, so that the same rows do not meet in every epoch.
        order = np.argsort(lengths * rng.uniform(0.95, 1.05, lengths.size), kind="stable")
    else:
        span = config.bucket * config.batch_size
        order = rng.permutation(num_frames.size)[: sum(sizes)]
        buckets = [order[at : at + span] for at in range(0, order.size, span)]
        order = np.concatenate([rows[np.argsort(lengths[rows], kind="stable")] for rows in buckets])
    batches = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    crop = rng if config.random_crop else None
    return [_key(config, num_frames, batches[at], crop) for at in rng.permutation(len(batches))]


def batch_sizes(config: DialogueDataConfig, num_frames: np.ndarray, world: int = 1) -> list[int]:
    """How many rows each batch of an epoch has over all ranks, a multiple of `world`, in the order of their lengths.

    These are the same in every epoch, which is what the loader's place in an epoch counts on.
    """
    if not config.batch_steps:
        return [config.batch_size] * (num_frames.size // config.batch_size)
    lengths = np.sort(np.minimum(num_frames, config.max_steps))
    sizes: list[int] = []
    at = 0
    while lengths.size - at >= world:
        # The longest row of a batch of n is its last one.
        filled = np.arange(1, lengths.size - at + 1) * lengths[at:]
        size = max(world, int(np.searchsorted(filled, config.batch_steps, side="right")) // world * world)
        sizes.append(size)
        at += size
    return sizes


def for_rank(key: BatchKey, rank: int, world: int) -> BatchKey:
    """The rows of a global batch that one rank trains on, filled to the length of the global batch."""
    return BatchKey(key.rows[rank::world], key.starts[rank::world], key.num_steps)


def padding(config: DialogueDataConfig, num_frames: np.ndarray, epoch: int) -> float:
    """The share of an epoch's frames that is filler."""
    keys = epoch_keys(config, num_frames, epoch)
    filled = sum(len(key.rows) * key.num_steps for key in keys)
    real = sum(int(np.minimum(num_frames[list(key.rows)], config.max_steps).sum()) for key in keys)
    return 1 - real / filled


def _key(
    config: DialogueDataConfig, num_frames: np.ndarray, rows: np.ndarray, rng: np.random.Generator | None
) -> BatchKey:
    spare = np.maximum(num_frames[rows] - config.max_steps, 0)
    starts = rng.integers(spare + 1) if rng else np.zeros_like(spare)
    steps = int(np.minimum(num_frames[rows], config.max_steps).max())
    return BatchKey(tuple(rows.tolist()), tuple(starts.tolist()), steps)
