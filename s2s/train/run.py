"""One training run from its config: modules, data, callbacks, loggers, resume."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from s2s.checkpoint import load
from s2s.codec.base import CodecSpec
from s2s.codec.spectral import SpectralCodec
from s2s.config import to_dict
from s2s.data.audio_crops import AudioCropDataModule
from s2s.data.datamodule import DialogueDataModule
from s2s.data.resume import ResumableDataModule
from s2s.data.shards import ShardInfo, read_shard, shard_files
from s2s.data.written import WRITTEN
from s2s.models.step import silence_codes
from s2s.streams import dialogue_layout
from s2s.text import Tokenizer, load_tokenizer
from s2s.train.callbacks import DataWait, Ema, SeedEachBatch, Speed
from s2s.train.checkpoints import (
    Checkpoints,
    Stopped,
    load_codec,
    load_weights,
    newest_loadable,
    part_of,
    read_checkpoint,
)
from s2s.train.codec import CodecModule
from s2s.train.config import CodecRun, DuplexRun, RunConfig
from s2s.train.module import DuplexModule
from s2s.train.samples import CodecSamples, DuplexSamples, Samples

log = logging.getLogger(__name__)

_VERSIONS = ("s2s", "torch", "torchaudio", "lightning", "numpy", "hydra-core")


def run_training(config: CodecRun | DuplexRun, callbacks: Sequence[Callback] = ()) -> Path | None:
    """Train until the last step or SIGTERM, with more callbacks if given; returns the newest checkpoint.

    Raises ValueError for what a user can mend, RuntimeError when too many gradients were not finite.
    """
    torch.set_num_threads(config.trainer.threads or len(os.sched_getaffinity(0)))
    # On a GPU: cuDNN plans its attention anew for every length and number of rows, which takes longer than a step.
    torch.backends.cuda.enable_cudnn_sdp(False)
    pl.seed_everything(config.seed, verbose=False)
    folder = Path(config.folder)
    data, module, samples, frame_s = build_codec(config) if isinstance(config, CodecRun) else build_duplex(config)
    resume = find_resume(config.resume, folder / "checkpoints")
    if resume is not None:
        check_same_sizes(module, resume)
    elif config.init_from:
        start_from(module, config.init_from)
    trainer = build_trainer(config, module, samples, frame_s)
    trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
    size = sum(p.numel() for p in module.parameters())
    log.info("%s: %.2f M parameters, %s", config.name, size / 1e6, f"continues {resume}" if resume else "begins")
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except (Stopped, SIGTERMException) as stopped:
        log.info("%s; start it again to continue", stopped or "stopped")
    return newest_loadable(folder / "checkpoints")


def build_codec(config: CodecRun) -> tuple[ResumableDataModule, CodecModule, Samples, float]:
    """Data, module, samples and the seconds of a frame."""
    data, module = AudioCropDataModule(config.found_data()), CodecModule(config.train_config())
    samples = CodecSamples(Path(config.folder) / "samples", config.callbacks)
    return data, module, samples, float(1 / module.codec.spec.frame_rate)


def build_duplex(config: DuplexRun) -> tuple[ResumableDataModule, DuplexModule, Samples | None, float]:
    """Data, module, samples (None without a codec) and the seconds of a frame."""
    data = DialogueDataModule(config.data)
    info = data.info
    layout = dialogue_layout(
        info.num_codebooks, info.codebook_size, info.text_vocab_size, config.streams.acoustic_delay
    )
    tokenizer = _find_tokenizer(config.data.shards)
    module = DuplexModule(config.train_config(layout, tokenizer), tokenizer)
    if module.reading is None and (path := find_written(config.data.shards)):
        raise ValueError(f"{path} holds calls without sound, which only a model with model.wording_layer can read")
    frame_s = info.frame_size / info.sample_rate
    if not config.codec_from:
        return data, module, None, frame_s
    codec = load_codec(config.codec_from)
    _start_from_codec(module, codec, info, config.codec_from)
    module.silence = silence_codes(codec)
    return data, module, DuplexSamples(Path(config.folder) / "samples", config.callbacks, codec, tokenizer), frame_s


def build_trainer(
    config: RunConfig, module: CodecModule | DuplexModule, samples: Samples | None, frame_s: float
) -> pl.Trainer:
    """A Trainer whose steps are counted by the module's optimiser and whose order of batches never ends."""
    t, folder, wait = config.trainer, Path(config.folder), DataWait()
    if t.processes > 1 and not torch.distributed.is_torchelastic_launched():
        command = f"torchrun --nproc-per-node {t.processes} -m s2s.cli.main train ..."
        raise ValueError(f"trainer.processes {t.processes} are started by torchrun: {command}")
    bar = sys.stderr.isatty()
    callbacks: list[Callback] = [SeedEachBatch(config.seed)]
    if config.callbacks.ema_decay:
        callbacks.append(Ema(config.callbacks.ema_decay))
    callbacks.append(Speed(t.log_every, frame_s, wait, lines=not bar))
    if samples is not None and config.callbacks.sample_every:
        callbacks.append(samples)
    if bar:
        callbacks.append(RichProgressBar())
    c = config.callbacks
    callbacks.append(Checkpoints(folder / "checkpoints", c.save_every, c.keep, about(config)))
    # The judges of a codec take part from some step on only, the depth transformer always.
    strategy = DDPStrategy(find_unused_parameters=isinstance(module, CodecModule)) if t.processes > 1 else "auto"
    return pl.Trainer(
        accelerator=t.accelerator,
        devices=t.processes,
        strategy=strategy,
        precision=t.precision,
        max_epochs=-1,
        max_steps=module.config.total_steps,
        accumulate_grad_batches=t.accumulate,
        check_val_every_n_epoch=None,
        val_check_interval=t.validate_every * t.accumulate or None,
        limit_val_batches=None if t.validate_every else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=t.log_every,
        logger=_loggers(config, folder),
        callbacks=callbacks,
        profiler=wait,
        enable_checkpointing=True,
        enable_progress_bar=bar,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def find_resume(resume: str, folder: Path) -> Path | None:
    """The checkpoint that `resume` names: "auto", "never" or a path."""
    if resume == "never":
        return None
    if resume == "auto":
        return newest_loadable(folder)
    read_checkpoint(resume)
    return Path(resume)


def check_same_sizes(module: CodecModule | DuplexModule, path: Path) -> None:
    """ValueError when a checkpoint to continue is of other sizes than the config."""
    branch = "codec" if isinstance(module, CodecModule) else "model"
    saved, wanted = read_checkpoint(path).get("config", {}).get(branch), to_dict(module.config)[branch]
    if saved is not None and saved != wanted:
        names = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
        raise ValueError(f"{path} has another {branch} ({', '.join(names)}): use another folder, or resume=never")


def start_from(module: CodecModule | DuplexModule, path: str) -> None:
    """Take over the averaged weights of a checkpoint, or the weights of an exported folder.

    A codec that begins with an exported one keeps its rounded weights in the part that is frozen; a decoder of other
    sizes begins anew. The judges of a codec and the parts of a model's depth transformer, its spelling, plan and talker
    are taken over where both have them in the same sizes. Layers that a model has beyond those of the checkpoint begin
    as ones that change nothing.
    """
    exported = Path(path).suffix != ".ckpt"
    if isinstance(module, DuplexModule):
        _start_duplex(module, path, exported)
    else:
        _start_codec(module, path, exported)


def _start_codec(module: CodecModule, path: str, exported: bool) -> None:
    own, saved = module.codec.state_dict(), {} if exported else read_checkpoint(path)["state_dict"]
    weights = own | load_codec(path).state_dict() if exported else part_of(saved, "codec.")
    for part in dict.fromkeys(".".join(name.split(".")[:2]) for name in own if name.startswith("decoder.")):
        weights = _with_own(weights, own, f"{part}.", path)
    load_weights(module.codec, weights, path)
    judges = part_of(saved, "discriminators.")
    if module.discriminators is not None and judges:
        load_weights(module.discriminators, judges, path)


def _with_own(weights: dict[str, Any], own: dict[str, Any], part: str, path: str) -> dict[str, Any]:
    """The weights of a checkpoint, with the module's own for a part that has other sizes in it."""
    names = [name for name in own if name.startswith(part)]
    if all(name in weights and weights[name].shape == own[name].shape for name in names):
        return weights
    log.info("%s: its %s is another one; this one begins anew", path, part.rstrip("."))
    return {n: w for n, w in weights.items() if not n.startswith(part)} | {n: own[n] for n in names}


def _start_duplex(module: DuplexModule, path: str, exported: bool) -> None:
    if exported:
        model = load(path).model
        if model is None:
            raise ValueError(f"{path} holds a codec without a model")
        weights = model.state_dict()
    else:
        weights = part_of(read_checkpoint(path)["state_dict"], "model.")
    own = module.model.state_dict()
    new_wording = "wording.back.weight" in own and "wording.back.weight" not in weights
    new_ahead = "ahead.weight" in own and "ahead.weight" not in weights
    depth = dict.fromkeys(".".join(name.split(".")[:2]) + "." for name in own if name.startswith("depth."))
    for part in (*depth, "spelling.", "wording.", "ahead.", "plan.", "talker.timing.", "talker."):
        weights = _with_own(weights, own, part, path)
    for name in own.keys() - weights.keys():
        if name.startswith("backbone.layers."):
            # A layer more than there were: it changes nothing at first, as it adds nothing.
            adds = name.endswith(("attention.out.weight", "mlp.down.weight"))
            weights[name] = torch.zeros_like(own[name]) if adds else own[name]
    load_weights(module.model, module.model.adapted(weights), path)
    if new_wording:
        module.model.read_wording()
    if new_ahead:
        module.model.look_ahead()


def about(config: RunConfig) -> dict[str, Any]:
    """What a checkpoint came from: the whole config, the commit, the versions."""
    versions = {name: _version(name) for name in _VERSIONS} | {"python": platform.python_version()}
    return {"config": to_dict(config), "commit": _commit(), "versions": versions}


def _start_from_codec(module: DuplexModule, codec: SpectralCodec, info: ShardInfo, path: str) -> None:
    expected = CodecSpec(info.sample_rate, info.frame_size, info.num_codebooks, info.codebook_size)
    if codec.spec != expected:
        raise ValueError(f"codec_from {path} has {codec.spec}, the data were encoded with {expected}")
    width, dim = module.config.model.code_width, codec.config.code_dim
    if width != dim:
        raise ValueError(f"model.code_width is {width}, it must be what the codebooks of {path} have: {dim}")
    module.model.start_from_codebooks(codec.quantizer.codebooks)


def find_written(shards: tuple[str, ...]) -> Path | None:
    """The first of these shards that holds calls without sound."""
    sources = ((path, read_shard(path).info.recipe.get("source", "")) for path in shard_files(shards))
    return next((path for path, source in sources if source.startswith(WRITTEN)), None)


def _find_tokenizer(shards: tuple[str, ...]) -> Tokenizer | None:
    path = shard_files(shards)[0].parent / "tokenizer.json"
    return load_tokenizer(path.read_text(encoding="utf-8")) if path.exists() else None


def _loggers(config: RunConfig, folder: Path) -> list[Logger]:
    loggers: list[Logger] = []
    if config.logger.csv:
        loggers.append(CSVLogger(folder, name="csv"))  # a new version_* each time the run is started
    if config.logger.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    return loggers


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit of the checkout, with a + where files differ from it; empty where there is none."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()
