"""Callbacks of training: one seed per batch, the average of the weights, and how fast training is."""

from __future__ import annotations

import logging
import random
import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.profilers import Profiler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from s2s.train.work import Work

log = logging.getLogger(__name__)

_FETCH = "train_dataloader_next"
# So many times the speed make float32 worth a hint: some processors have bfloat16 without units of its own for it.
_WORTH_WHOLE = 1.2


class SeedEachBatch(Callback):
    """Random numbers are a function of (seed, batch number, rank), so a resumed run draws what the whole one drew.

    Nothing between two batches (validation, samples, logging) can move them either.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        entropy = (self.seed, trainer.fit_loop.total_batch_idx, trainer.global_rank)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 libraries may draw from the global generator
        torch.manual_seed(seed)


class Ema(WeightAveraging):
    """Exponential moving average of weights and buffers, saved as the checkpoint's `state_dict`.

    Only steps that were taken move it: modules say so in `step_taken`. Values that never change stay exact.
    """

    def __init__(self, decay: float):
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module itself moves there only later
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if getattr(pl_module, "step_taken", True):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @property
    def average(self) -> pl.LightningModule:
        """The module with averaged weights, while fitting."""
        assert self._average_model is not None
        module = self._average_model.module
        assert isinstance(module, pl.LightningModule)
        return module


def usable_module(trainer: pl.Trainer, module: pl.LightningModule) -> pl.LightningModule:
    """The module whose weights are worth listening to: the average where there is one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Ema):
            return callback.average
    return module


class DataWait(Profiler):
    """Seconds that the training loop waited for batches since the last `take`."""

    def __init__(self) -> None:
        super().__init__()
        self._begin = self._total = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith(_FETCH):
            self._begin = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(_FETCH):
            self._total += time.perf_counter() - self._begin

    def take(self) -> float:
        total, self._total = self._total, 0.0
        return total


class Speed(Callback):
    """Logs audio seconds per second, MFU and the share of time spent waiting for data, every `every` batches.

    MFU is the work of the batches, as `train/work.py` counts it, over the time they took and over what one large
    product in the training precision reaches on the same device, or one in float32 where a processor has nothing for
    the halves. Where there is no progress bar, a line is logged too.
    """

    def __init__(self, every: int, frame_s: float, wait: DataWait, lines: bool):
        self.every, self.frame_s, self.wait, self.lines = every, frame_s, wait, lines
        self._peak = float("inf")
        self._start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        half = "bf16" in str(trainer.precision)
        self._peak = product_flops_per_s(pl_module.device, torch.bfloat16 if half else torch.float32)
        if half and pl_module.device.type == "cpu":
            whole = product_flops_per_s(pl_module.device, torch.float32)
            if whole > _WORTH_WHOLE * self._peak and trainer.is_global_zero:
                times = whole / self._peak
                log.warning("float32 products are %.1f times as fast here: try trainer.precision=32-true", times)
            self._peak = max(self._peak, whole)
        self._start()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        work: Work = pl_module.work
        self._batches += 1
        self._audio_s += work.frames * self.frame_s * trainer.world_size
        self._flops += work.flops
        if self._batches < self.every:
            return
        elapsed = time.perf_counter() - self._begin
        values = {
            "speed/audio_s_per_s": self._audio_s / elapsed,
            "speed/mfu": self._flops / elapsed / self._peak,
            "speed/data_wait": self.wait.take() / elapsed,
        }
        pl_module.log_dict(values, prog_bar=True)
        if self.lines and trainer.is_global_zero:
            losses = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
            shown = " ".join(f"{name.split('/')[1]} {value:.4g}" for name, value in {**losses, **values}.items())
            log.info("step %d of %s: %s", trainer.global_step, trainer.max_steps, shown)
        self._start()

    def _start(self) -> None:
        self._batches, self._audio_s, self._flops = 0, 0.0, 0.0
        self.wait.take()
        self._begin = time.perf_counter()


def product_flops_per_s(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """What one large matrix product reaches on the device: the best of a few."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
