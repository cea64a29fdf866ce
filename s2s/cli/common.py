"""What all commands share: one clear line for a mistake, JSON on standard output, models by name, audio files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import typer
from rich.console import Console

from s2s.audio.io import AudioError, read_audio

if TYPE_CHECKING:  # torch takes seconds to import, and `s2s --help` needs none of it
    from s2s.checkpoint import Bundle, Speed

DEFAULT_MODEL = "support_desk"
USER_ERROR = 2

log = logging.getLogger(__name__)
console = Console(stderr=True, highlight=False)

MODEL_HELP = "A name that ships with the package, a folder, a hub id (owner/name), or 'random' for random weights."
DECODER_HELP = "own: the one of the model's voice; general: for any voice. Default: the general one, if there is one."
DEVICE_HELP = "Where the model computes: cpu, or cuda for the GPU."
PHRASES_HELP = "Whether the agent writes the phrases of its checkpoint alone, where that has some."


def fail(message: object) -> NoReturn:
    """End with exit code 2 and one line on standard error."""
    line = " ".join(str(message).split()) or "unknown error"
    typer.echo(f"s2s: error: {line}", err=True)
    raise typer.Exit(USER_ERROR)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a user can cause (a ValueError, a file that cannot be used) into one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        log.debug("the error in full", exc_info=True)
        fail(error)


def print_json(result: dict[str, Any]) -> None:
    """Print one JSON object, the only thing that a command with --json writes to standard output."""
    sys.stdout.write(json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def open_model(name: str, phrases: bool = True, device: str = "cpu") -> Bundle:
    """Load a checkpoint by name, or make one with random weights; `phrases`: where it has some it writes no others."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}, allowed are 'cpu' and 'cuda'")
    from s2s.checkpoint import load, random_bundle

    bundle = random_bundle() if name == "random" else load(name)
    if not phrases:
        bundle.phrases = None
    return bundle.to(device)


def speed_or_none(name: str | None) -> Speed | None:
    """What --speed says; None: as the model likes it."""
    from s2s.checkpoint import speed_named

    return None if name is None else speed_named(name)


def set_threads(threads: int) -> None:
    """Let torch use this many threads inside an operation; a step of one conversation is fastest on one or two."""
    import torch

    if threads < 1:
        raise ValueError(f"--threads is {threads}, allowed is 1 and above")
    torch.set_num_threads(threads)


def read_channel(path: Path, channel: str) -> tuple[np.ndarray, int]:
    """Read one channel [N] of an audio file: "left", "right", a number from 0, or "mix" for the mean of all."""
    wav, rate = read_audio(path)
    if channel == "mix":
        return wav.mean(axis=0), rate
    names = {"left": 0, "right": 1}
    if channel not in names and not channel.isdecimal():
        raise ValueError(f"--channel is {channel!r}, allowed are left, right, mix or a number from 0")
    index = names.get(channel, -1) if channel in names else int(channel)
    if index >= len(wav):
        raise AudioError(f"{path}: has {len(wav)} channel(s), there is no channel {channel}")
    return wav[index], rate


def check_writable(path: Path) -> None:
    """Raise AudioError before any work is done if a file could not be written in the end."""
    if path.is_dir():
        raise AudioError(f"{path}: cannot write, it is a directory")
    if not path.parent.is_dir():
        raise AudioError(f"{path}: cannot write, the directory {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise AudioError(f"{path}: cannot write, permission denied")
