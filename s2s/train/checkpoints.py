"""Checkpoints of training: written whole or not at all, found again, and read as the averaged weights to use."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from s2s.checkpoint import load
from s2s.codec.spectral import SpectralCodec, SpectralCodecConfig
from s2s.config import from_dict
from s2s.models.duplex import DuplexConfig, DuplexModel

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Training ended early because it was told to, with everything saved."""


class Checkpoints(Checkpoint):
    """Saves `folder`/step-*.ckpt every so many optimiser steps, at the end and on SIGTERM; the newest `keep` stay.

    `about` is written beside each checkpoint as JSON.
    """

    def __init__(self, folder: Path, every: int, keep: int, about: dict[str, Any]):
        self.folder, self.every, self.keep, self.about = folder, every, keep, about
        self._seen = self._saved = -1
        self._told_to_stop = False
        self._handler: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seen = self._saved = trainer.global_step
        self._told_to_stop = trainer.received_sigterm
        # Lightning's own handler would leave at once, without a checkpoint.
        self._handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stop = self._told_to_stop
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        step = trainer.global_step
        if trainer.accumulate_grad_batches > 1 and step == self._seen:
            return  # gradients that wait for more batches are not in a checkpoint
        self._seen = step
        if step > self._saved and (stop or step % self.every == 0 or step >= trainer.max_steps):
            self.save(trainer)
        if stop:
            raise Stopped(f"stopped by SIGTERM at step {step}")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self._told_to_stop:
            raise Stopped(f"stopped by SIGTERM while validating; step {self._saved} is saved")

    def save(self, trainer: pl.Trainer) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = checkpoint_path(self.folder, trainer.global_step)
        part = path.with_suffix(".part")
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            _write_whole(path.with_suffix(".json"), json.dumps(self.about, indent=1).encode())
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
            for old in list_checkpoints(self.folder)[self.keep :]:
                old.unlink()
                old.with_suffix(".json").unlink(missing_ok=True)
            log.info("saved %s", path)
        self._saved = trainer.global_step
        return path

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        self._restore_handler()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self._restore_handler()

    def _on_sigterm(self, *args: Any) -> None:
        self._told_to_stop = True

    def _restore_handler(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
            self._handler = None


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.ckpt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def newest_loadable(folder: Path) -> Path | None:
    """The newest checkpoint of the folder that is whole; broken ones are passed over with a warning."""
    for path in list_checkpoints(folder):
        try:
            read_checkpoint(path)
        except ValueError as error:
            log.warning("passed over: %s", error)
        else:
            return path
    return None


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; ValueError when the file is missing, damaged or no checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken:
            raise ValueError(f"{path}: not a whole checkpoint ({broken} is damaged)")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a checkpoint that can be read ({error})") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path}: not a checkpoint of training (it has no state_dict)")
    return content


def load_codec(path: Path | str) -> SpectralCodec:
    """The codec of a training checkpoint (averaged weights), or of whatever else `s2s.load` opens; ready for use.

    `path` may be a folder of training checkpoints too: the newest one counts.
    """
    path = _newest_of(path)
    if path.suffix != ".ckpt":
        loaded = load(str(path)).codec
        if not isinstance(loaded, SpectralCodec):
            raise ValueError(f"{path}: its codec is a {type(loaded).__name__}, expected a SpectralCodec")
        return loaded.requires_grad_(False)
    content = read_checkpoint(path)
    codec = SpectralCodec(from_dict(SpectralCodecConfig, content.get("config", {}).get("codec", {})))
    load_weights(codec, part_of(content["state_dict"], "codec."), str(path))
    return codec.eval().requires_grad_(False)


def load_duplex(path: Path | str) -> DuplexModel:
    """The model of a training checkpoint, or of the newest one in a folder: averaged weights, ready for use."""
    path = _newest_of(path)
    content = read_checkpoint(path)
    if "model" not in content.get("config", {}):
        raise ValueError(f"{path}: not a checkpoint of a duplex model")
    model = DuplexModel(from_dict(DuplexConfig, content["config"]["model"]))
    load_weights(model, part_of(content["state_dict"], "model."), str(path))
    return model.eval().requires_grad_(False)


def part_of(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def load_weights(module: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy weights into a module that must have the same names and shapes; ValueError says where they differ."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit the configured sizes: {error}") from error


def _newest_of(path: Path | str) -> Path:
    folder = Path(path)
    return (newest_loadable(folder) or folder) if folder.is_dir() else folder


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(data)
    part.replace(path)
