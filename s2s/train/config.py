"""What a training run is: frozen dataclasses, read strictly from the plain dicts that the configs compose to."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from s2s.config import from_dict
from s2s.data.audio_crops import AudioCropConfig
from s2s.data.datamodule import DialogueDataConfig
from s2s.models.spelling import spelling_pieces
from s2s.streams import StreamLayout, dialogue_layout
from s2s.text import Tokenizer
from s2s.train.codec import CodecTrainConfig
from s2s.train.objective import DuplexTrainConfig


@dataclass(frozen=True)
class TrainerConfig:
    """How steps are run.

    `threads` 0 takes all cores. `accumulate` batches make one optimiser step. `validate_every` and `log_every` count
    optimiser steps; 0 never validates. More than one of `processes` are started by torchrun.
    """

    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = 1
    threads: int = 0
    accumulate: int = 1
    validate_every: int = 0
    log_every: int = 20

    def __post_init__(self) -> None:
        _at_least(self, 1, "processes", "accumulate", "log_every")
        _at_least(self, 0, "threads", "validate_every")


@dataclass(frozen=True)
class CallbacksConfig:
    """What happens beside the steps; intervals count optimiser steps, 0 is never.

    The newest `keep` checkpoints stay. `ema_decay` 0 keeps no average. Samples are `num_samples` conversations (or
    clips) of at most `sample_s` seconds.
    """

    save_every: int = 500
    keep: int = 2
    ema_decay: float = 0.998
    sample_every: int = 1000
    num_samples: int = 2
    sample_s: float = 20.0
    sample_temperature: float = 0.7

    def __post_init__(self) -> None:
        _at_least(self, 1, "save_every", "keep", "num_samples")
        _at_least(self, 0, "sample_every")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay {self.ema_decay} must be 0 (none) to below 1")


@dataclass(frozen=True)
class LoggerConfig:
    """Where numbers go, below the folder of the run."""

    csv: bool = True
    tensorboard: bool = True


@dataclass(frozen=True)
class StreamsConfig:
    """What the data do not say about the streams; see `streams.dialogue_layout`."""

    acoustic_delay: int = 0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What runs of both kinds share.

    Everything is written below `folder`. `resume` is "auto" (the newest checkpoint of the folder that can be loaded,
    if there is one), "never" or a checkpoint to continue exactly. `init_from` is a checkpoint that only gives the
    weights to begin with. `optim` and the sizes are checked by `train_config`.
    """

    name: str
    folder: str
    seed: int = 1
    resume: str = "auto"
    init_from: str = ""
    optim: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        every = self.trainer.validate_every
        if every % self.callbacks.save_every:
            # A run that is stopped while it validates continues from the checkpoint saved just before.
            raise ValueError(
                f"trainer.validate_every {every} must be a multiple of callbacks.save_every {self.callbacks.save_every}"
            )


@dataclass(frozen=True, kw_only=True)
class CodecRun(RunConfig):
    """Training of a codec on crops of audio; `data.files` may hold patterns like `clips/*.parquet`."""

    kind: Literal["codec"]
    data: AudioCropConfig
    codec: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainer.accumulate != 1:
            raise ValueError("trainer.accumulate of a codec must be 1, as its codebooks learn batch by batch")
        frame_size = self.train_config().codec.spec.frame_size
        if self.data.crop_samples % frame_size:
            raise ValueError(f"data.crop_samples {self.data.crop_samples} must be a multiple of a frame, {frame_size}")

    def train_config(self) -> CodecTrainConfig:
        return _train_config(CodecTrainConfig, self.optim, {"codec": self.codec})

    def found_data(self) -> AudioCropConfig:
        """`data` with every pattern replaced by the files it stands for."""
        found = [sorted(glob.glob(pattern)) for pattern in self.data.files]
        for pattern, files in zip(self.data.files, found, strict=True):
            if not files:
                raise ValueError(f"data.files: nothing matches {pattern!r}")
        return replace(self.data, files=tuple(file for files in found for file in files))


@dataclass(frozen=True, kw_only=True)
class DuplexRun(RunConfig):
    """Training of a duplex model on encoded dialogues made with the codec in `codec_from`.

    The layout follows from the data and `streams`; the embeddings start from the codec's codebooks, and audible samples
    are made with it. Without a codec there are neither.
    """

    kind: Literal["duplex"]
    data: DialogueDataConfig
    streams: StreamsConfig = field(default_factory=StreamsConfig)
    model: dict[str, Any] = field(default_factory=dict)
    codec_from: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "layout" in self.model:
            raise ValueError("model.layout: unknown key; the layout follows from the data and `streams`")
        optim = self.train_config(dialogue_layout(8, 1024, 512))
        if self.data.wrong_starts and optim.audio_weight and not optim.replies_only:
            # The text of such a start is not what is said aloud.
            raise ValueError("data.wrong_starts needs optim.replies_only, or an optim.audio_weight of 0")

    def train_config(self, layout: StreamLayout, tokenizer: Tokenizer | None = None) -> DuplexTrainConfig:
        config = _train_config(DuplexTrainConfig, self.optim, {"model": self.model})
        model = replace(config.model, layout=layout)
        if tokenizer is not None and model.spelling_layer and "spelling_pieces" not in self.model:
            model = replace(model, spelling_pieces=spelling_pieces(tokenizer))
        return replace(config, model=model)


def run_from_dict(tree: Mapping[str, Any]) -> CodecRun | DuplexRun:
    """The run that a composed config describes; ValueError names a wrong key, its path and the nearest valid one."""
    kinds = {"codec": CodecRun, "duplex": DuplexRun}
    if tree.get("kind") not in kinds:
        raise ValueError(f"kind is {tree.get('kind')!r}, allowed are {sorted(kinds)}: choose one with experiment=...")
    return from_dict(kinds[tree["kind"]], tree)


def _train_config(cls: type[Any], optim: Mapping[str, Any], sizes: Mapping[str, Any]) -> Any:
    """`cls` from two branches of the tree, with errors that name paths in the tree."""
    (branch,) = sizes
    if branch in optim:
        raise ValueError(f"optim.{branch}: unknown key; it stands beside optim")
    try:
        return from_dict(cls, {**optim, **sizes})
    except ValueError as error:
        inside = str(error).startswith(f"{branch}")
        raise ValueError(str(error) if inside else f"optim.{error}") from None


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"{name} {getattr(config, name)} must be at least {least}")
