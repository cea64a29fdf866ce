"""Tiny data and runs for the tests of training: tones, a random codec, a few steps in full precision on one thread."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import torch
from lightning.pytorch import Callback

from s2s.checkpoint import Bundle, save
from s2s.cli.train import compose_run
from s2s.data.encode import EncodeConfig, Encoder, encode_dialogues
from s2s.data.synthetic import ToyEchoConfig, ToyEchoSource
from s2s.text import ByteTokenizer
from s2s.train.checkpoints import list_checkpoints, read_checkpoint
from s2s.train.config import CodecRun, DuplexRun
from s2s.train.run import run_training
from tests.tiny import tiny_codec

TOTAL_STEPS = 7
"""Over an epoch of four batches: steps 5 to 7 belong to the second one."""


def make_toy(folder: Path) -> Path:
    """audio.parquet for codecs, codec/ and shards/ for models, below the folder."""
    source = ToyEchoSource(ToyEchoConfig(num_dialogues=8, duration_s=2.0, max_pause_s=0.2, max_sequence=2))
    clips = []
    for index in range(4):
        file = io.BytesIO()
        sf.write(file, source[index].user[:19200], 24000, format="WAV")
        clips.append(file.getvalue())
    pq.write_table(pa.table({"audio": clips}), folder / "audio.parquet")
    codec = tiny_codec()
    save(Bundle(codec), folder / "codec")
    encode_dialogues(source, Encoder(codec, ByteTokenizer(), EncodeConfig(rows_per_shard=4)), folder / "shards")
    return folder


def codec_run(toy: Path, folder: Path, *more: str) -> CodecRun:
    """Batches of two crops of 0.4 s, four to an epoch; the judges come in at step 3."""
    run = compose_run(
        [
            "experiment=toy_codec",
            "debug=tiny",
            f"folder={folder}",
            f"data.files=[{toy}/audio.parquet]",
            "data.crop_samples=9600",
            f"data.cache={toy}/audio.npy",
            f"optim.total_steps={TOTAL_STEPS}",
            "optim.adversarial_from=3",
            "optim.adversarial_samples=2400",
            "callbacks.sample_every=0",
            "logger.tensorboard=false",
            *more,
        ]
    )
    assert isinstance(run, CodecRun)
    return run


def duplex_run(toy: Path, folder: Path, *more: str) -> DuplexRun:
    """Batches of two dialogues, four to an epoch."""
    run = compose_run(
        [
            "experiment=toy_echo",
            "debug=tiny",
            f"folder={folder}",
            f"data.shards=[{toy}/shards]",
            f"data.cache={toy}",
            f"codec_from={toy}/codec",
            "model.code_width=6",
            f"optim.total_steps={TOTAL_STEPS}",
            "optim.masked_share=0.12",
            "optim.level_dropout=0.3",
            "callbacks.sample_every=0",
            "logger.tensorboard=false",
            *more,
        ]
    )
    assert isinstance(run, DuplexRun)
    return run


RUNS: dict[str, Any] = {"codec": codec_run, "duplex": duplex_run}


def train_to_end(run: CodecRun | DuplexRun, *callbacks: Callback) -> dict[str, Any]:
    """Train, and read the last checkpoint."""
    run_training(run, callbacks)
    return read_checkpoint(list_checkpoints(Path(run.folder) / "checkpoints")[0])


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Two trees of a checkpoint are equal bit for bit."""
    assert type(one) is type(other), f"{path}: {type(one)} and {type(other)}"
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), f"{path}: differs by {(one.float() - other.float()).abs().max():.3g}"
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), f"{path}: {one.keys() ^ other.keys()}"
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other)):
            assert_same(a, b, f"{path}[{index}]")
    else:
        assert one == other, f"{path}: {one!r} and {other!r}"


def training_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What decides how training goes on: weights, averages, optimisers, schedulers, place in the data, counters."""
    names = ["state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"]
    names += ["global_step", "epoch", "skipped_steps"]
    data = [value for name, value in checkpoint.items() if name.endswith("DataModule")]
    assert len(data) == 1
    return {name: checkpoint[name] for name in names} | {"data": data[0]}
