"""Random crops of audio clips for codec training, from an int16 cache on disk that is decoded once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from s2s.audio.io import read_audio
from s2s.audio.pcm import float_to_int16
from s2s.audio.resample import resample
from s2s.data.resume import ResumableDataModule, ResumableLoader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioCropConfig:
    """Parquet `files` with audio bytes, `cache` (an .npy path to create), and how to crop.

    `batch_size` counts the rows over all ranks. A clip is drawn with a chance proportional to its length. With `group`,
    the name of a column, each of its values is drawn as often as `weights` say (1 where absent), however many clips
    have it: what is said all the time may be few of them.
    """

    files: tuple[str, ...]
    cache: str
    crop_samples: int
    batch_size: int
    seed: int = 0
    num_workers: int = 0
    sample_rate: int = 24_000
    column: str = "audio"
    group: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    max_bad_fraction: float = 0.01


class AudioCropDataset(Dataset[dict[str, torch.Tensor]]):
    """`dataset[step]` is the batch of that step: {"wav": [B, 1, N] float32}, a pure function of (seed, step)."""

    def __init__(self, config: AudioCropConfig, rank: int = 0, world: int = 1) -> None:
        index = json.loads(_index_path(config.cache).read_text())
        self._pcm = np.load(config.cache, mmap_mode="r")
        self._starts = np.asarray(index["starts"], dtype=np.int64)
        groups = np.asarray(index["groups"])
        names = np.unique(groups).tolist()
        if unknown := config.weights.keys() - set(names):
            raise ValueError(f"weights name {sorted(unknown)}, the clips have {names} in column {config.group!r}")
        weights = np.array([config.weights.get(name, 1.0) for name in names])
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError(f"weights are {config.weights}, allowed are numbers above 0, and 0 beside others")
        self._shares = weights / weights.sum()
        self._groups = [np.flatnonzero(groups == name) for name in names]
        self._ends = [np.cumsum(np.diff(self._starts)[clips]) for clips in self._groups]
        self._config, self._rank, self._world = config, rank, world

    @property
    def num_samples(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rows = range(self._rank, self._config.batch_size, self._world)
        pcm = np.stack([self._crop(step, row) for row in rows])
        return {"wav": torch.from_numpy(pcm).unsqueeze(1).float() / 32768}

    def _crop(self, step: int, row: int) -> np.ndarray:
        """int16 [N]; a clip shorter than the crop lies at a random place in silence."""
        size = self._config.crop_samples
        rng = np.random.default_rng((self._config.seed, step, row))
        group = int(rng.choice(len(self._groups), p=self._shares)) if len(self._groups) > 1 else 0
        ends = self._ends[group]
        clip = int(self._groups[group][np.searchsorted(ends, rng.integers(ends[-1]), side="right")])
        begin, end = int(self._starts[clip]), int(self._starts[clip + 1])
        offset = int(rng.integers(abs(end - begin - size) + 1))
        if end - begin >= size:
            return np.asarray(self._pcm[begin + offset : begin + offset + size])
        crop = np.zeros(size, dtype=np.int16)
        crop[offset : offset + end - begin] = self._pcm[begin:end]
        return crop


class AudioCropDataModule(ResumableDataModule):
    """Batches {"wav": [B, 1, N]} of random crops; the order is a pure function of (seed, step) and resumes exactly."""

    def __init__(self, config: AudioCropConfig) -> None:
        super().__init__()
        self.config = config

    def prepare_data(self) -> None:
        build_cache(self.config)

    def train_dataloader(self) -> ResumableLoader:
        config = self.config
        dataset = AudioCropDataset(config, *self.rank_and_world(config.batch_size))
        per_epoch = max(1, dataset.num_samples // (config.crop_samples * config.batch_size))
        loader = ResumableLoader(
            dataset,
            lambda epoch: range(epoch * per_epoch, (epoch + 1) * per_epoch),
            per_epoch,
            config.num_workers,
        )
        return self.resume(loader)


def build_cache(config: AudioCropConfig) -> Path:
    """Decodes every clip once into `config.cache`; does nothing when the cache is already of these files.

    Clips that cannot be decoded are left out and counted; ValueError when more than `max_bad_fraction` are, or none
    is left.
    """
    path, index_path = Path(config.cache), _index_path(config.cache)
    if path.suffix != ".npy":
        raise ValueError(f"cache {config.cache!r} must end in .npy")
    key = _fingerprint(config)
    if path.exists() and index_path.exists() and json.loads(index_path.read_text())["key"] == key:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + f".part{os.getpid()}")
    try:
        starts, groups, bad = _write_pcm(part, config)
        num_clips = len(starts) - 1
        if num_clips == 0 or bad > config.max_bad_fraction * (bad + num_clips):
            allowed = f"{config.max_bad_fraction:.1%}"
            raise ValueError(f"{bad} of {bad + num_clips} clips cannot be decoded; allowed are {allowed}")
        index_path.unlink(missing_ok=True)  # so that an old index never stands beside new samples
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    index_part = index_path.with_name(index_path.name + f".part{os.getpid()}")
    index_part.write_text(json.dumps({"key": key, "starts": starts, "groups": groups, "left_out": bad}))
    index_part.replace(index_path)
    log.info("%s: %d clips, %.2f h, %d left out", path, num_clips, starts[-1] / config.sample_rate / 3600, bad)
    return path


def _write_pcm(path: Path, config: AudioCropConfig) -> tuple[list[int], list[str], int]:
    """Writes all clips as one .npy; returns the first sample of each and of the end, their groups, how many are bad."""
    starts, groups, bad = [0], list[str](), 0
    with path.open("wb") as file:
        _write_header(file, 0)
        header_size = file.tell()
        for name, clip, group in _clip_bytes(config):
            try:
                pcm = _decode(clip, config.sample_rate)
            except ValueError as error:
                bad += 1
                log.warning("%s: clip left out: %s", name, error)
                continue
            file.write(pcm.tobytes())
            starts.append(starts[-1] + pcm.size)
            groups.append(group)
        file.seek(0)
        _write_header(file, starts[-1])
        assert file.tell() == header_size
    return starts, groups, bad


def _clip_bytes(config: AudioCropConfig) -> Iterator[tuple[str, bytes, str]]:
    """The name, the audio and the group of every clip."""
    columns = [config.column, *([config.group] if config.group else [])]
    for name in config.files:
        table = pq.ParquetFile(name)
        if missing := [column for column in columns if column not in table.schema_arrow.names]:
            raise ValueError(f"{name} has no column {missing[0]!r}; it has {table.schema_arrow.names}")
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=columns):
            for row in batch.to_pylist():
                value = row[config.column]
                data = value.get("bytes") if isinstance(value, dict) else value
                yield f"{name} row {number}", data or b"", str(row[config.group]) if config.group else ""
                number += 1


def _decode(data: bytes, sample_rate: int) -> np.ndarray:
    """Mono int16 [N] at `sample_rate`."""
    wav, rate = read_audio(data)
    pcm = float_to_int16(resample(wav.mean(axis=0), rate, sample_rate))
    if pcm.size == 0:
        raise ValueError("the clip is empty")
    return np.ascontiguousarray(pcm, dtype="<i2")


def _write_header(file: Any, num_samples: int) -> None:
    # numpy leaves room for the first axis to grow, so the header can be rewritten in place.
    header = {"descr": "<i2", "fortran_order": False, "shape": (num_samples,)}
    np.lib.format.write_array_header_1_0(file, header)


def _fingerprint(config: AudioCropConfig) -> str:
    files = [(Path(name).name, Path(name).stat().st_size) for name in config.files]
    what = [files, config.column, config.group, config.sample_rate]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _index_path(cache: str) -> Path:
    return Path(cache).with_suffix(".json")
