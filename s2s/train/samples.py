"""Audible samples during training, made through the step that serves: one frame in, one frame out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from s2s.audio.io import write_wav
from s2s.codec.base import Codec
from s2s.models.step import DuplexStep, Step
from s2s.nn.sampling import Controls
from s2s.text import Tokenizer
from s2s.train.callbacks import usable_module
from s2s.train.config import CallbacksConfig

log = logging.getLogger(__name__)


class Samples(Callback):
    """Every so many steps writes `folder`/step-*-*.wav, two channels, and puts the second one into TensorBoard."""

    def __init__(self, folder: Path, config: CallbacksConfig):
        self.folder, self.config = folder, config
        self._made = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._made = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, every = trainer.global_step, self.config.sample_every
        if step > self._made and step % every == 0 and trainer.is_global_zero:
            self._made = step
            self.make(trainer, pl_module, batch)

    def make(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        """Write the samples of this moment."""
        with _listening(usable_module(trainer, module)) as usable:
            left, right, rate = self.sample(trainer, usable, batch)
        self.folder.mkdir(parents=True, exist_ok=True)
        for row, wav in enumerate(torch.stack([left, right], dim=1).float().cpu().clamp(-1, 1)):
            write_wav(self.folder / f"step-{trainer.global_step:08d}-{row}.wav", wav.numpy(), rate)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_audio(f"sample/{row}", wav[1:], trainer.global_step, rate)

    def sample(self, trainer: pl.Trainer, module: Any, batch: Any) -> tuple[Tensor, Tensor, int]:
        """left [B, N], right [B, N] and the sample rate."""
        raise NotImplementedError


class CodecSamples(Samples):
    """The clip on the left, what the codec makes of it frame by frame on the right."""

    def sample(self, trainer: pl.Trainer, module: Any, batch: Any) -> tuple[Tensor, Tensor, int]:
        codec, size = module.codec, module.codec.spec.frame_size
        wav = batch["wav"][: self.config.num_samples, :, : int(self.config.sample_s * codec.spec.sample_rate)]
        wav = wav[..., : wav.shape[-1] // size * size]
        encoder, decoder = codec.init_encoder(len(wav)), codec.init_decoder(len(wav))
        frames = [codec.decode(codec.encode(frame, encoder), decoder) for frame in wav.split(size, dim=-1)]
        return wav[:, 0], torch.cat(frames, dim=-1)[:, 0], codec.spec.sample_rate


class DuplexSamples(Samples):
    """The caller of a dialogue on the left, the agent's live answer on the right; what the agent writes is logged.

    The callers are those of the validation data, or of the batch where there are none. Callers who are only written
    cannot be listened to; where there are no others, there is no sample.
    """

    def __init__(self, folder: Path, config: CallbacksConfig, codec: Codec, tokenizer: Tokenizer | None = None):
        super().__init__(folder, config)
        self.codec, self.tokenizer = codec, tokenizer

    def sample(self, trainer: pl.Trainer, module: Any, batch: Any) -> tuple[Tensor, Tensor, int]:
        if isinstance(self.codec, torch.nn.Module):
            self.codec.to(module.device)
        spec = self.codec.spec
        source = next(iter(trainer.datamodule.val_dataloader()), batch)  # type: ignore[attr-defined]
        frames = int(self.config.sample_s * spec.frame_rate)
        heard = source["user"][:, 0, 0] < spec.codebook_size
        codes = source["user"][heard][: self.config.num_samples, :, :frames].to(module.device)
        if not len(codes):
            log.info("step %d: nobody of these is heard, so there is no sample", trainer.global_step)
            nothing = torch.zeros(0, frames * spec.frame_size)
            return nothing, nothing, spec.sample_rate
        caller = self.codec.decode(codes)
        temperature = self.config.sample_temperature
        controls = Controls.uniform(len(caller), temperature=temperature, device=str(module.device))
        agent, text = respond(DuplexStep(self.codec, module.model), caller, controls)
        if self.tokenizer is not None and "agent_text" in text:
            for row, ids in enumerate(text["agent_text"].tolist()):
                log.info("step %d, sample %d: %s", trainer.global_step, row, self.tokenizer.decode(ids).strip())
        return caller[:, 0], agent[:, 0], spec.sample_rate


@torch.inference_mode()
def respond(step: Step, wav: Tensor, controls: Controls) -> tuple[Tensor, dict[str, Tensor]]:
    """Feed whole audio frame by frame: wav [B, 1, T * step_size] -> the answer, same shape, and text ids [B, T]."""
    state = step.init_state(len(wav))
    outs = [step(frame, state, controls) for frame in wav.split(step.step_size, dim=-1)]
    text = {name: torch.stack([out.text[name] for out in outs], dim=1) for name in outs[0].text}
    return torch.cat([out.wav for out in outs], dim=-1), text


@contextlib.contextmanager
def _listening(module: pl.LightningModule) -> Iterator[pl.LightningModule]:
    """The module as it serves: evaluation mode, full precision, no gradients."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode(), torch.autocast(module.device.type, enabled=False):
            yield module
    finally:
        for part, training in modes:
            part.training = training
