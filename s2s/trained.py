"""What a training leaves behind, as parts of a checkpoint: Lightning's files, read without running what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2s.checkpoint import CheckpointError, load, load_weights
from s2s.codec.encodec import EncodecCodec
from s2s.codec.spectral import SpectralCodec, SpectralCodecConfig
from s2s.config import from_dict
from s2s.models.duplex import DuplexConfig, DuplexModel


def codec_of(source: str, decoder: str = "own") -> SpectralCodec | EncodecCodec:
    """The codec of a training checkpoint (a .ckpt file) or, with either decoder, of anything that `load` opens."""
    if not source.endswith(".ckpt"):
        return load(source).codec_with(decoder)
    codec: SpectralCodec = _trained(Path(source), "codec", SpectralCodecConfig, SpectralCodec)
    return codec


def model_of(source: str) -> DuplexModel:
    """The model of a training checkpoint (a .ckpt file) or of anything that `load` opens."""
    if source.endswith(".ckpt"):
        trained: DuplexModel = _trained(Path(source), "model", DuplexConfig, DuplexModel)
        return trained
    model = load(source).model
    if model is None:
        raise CheckpointError(f"{source} holds a codec only")
    return model


def _trained(path: Path, name: str, schema: type, build: Any) -> Any:
    """Build the codec or model of a training checkpoint with the config stored in it, by default the default one."""
    fields, tensors = read_training_checkpoint(path, name)
    try:
        module = build(from_dict(schema, fields))
    except ValueError as error:
        raise CheckpointError(f"{path}: its {name} config: {error}") from error
    load_weights(module, tensors, str(path))
    return module


def read_training_checkpoint(path: Path | str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of the "codec" or "model" in a training checkpoint, averaged weights where there are any.

    Such a file is a pickle; it is opened in torch's restricted mode, which builds tensors and plain values only.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except Exception as error:  # pickle, zip and torch have no common error
        raise CheckpointError(f"{path}: not a training checkpoint that can be read safely ({error})") from error
    # Weight averaging stores the averages here and the weights that training goes on with under another key.
    weights = stored.get("state_dict") if isinstance(stored, dict) else None
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path}: not a training checkpoint, it has no 'state_dict'")
    prefix = f"{name}."
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    if not found:
        raise CheckpointError(f"{path}: no tensor's name begins with {prefix!r}")
    config = stored.get("config")
    fields = config.get(name) if isinstance(config, dict) else None
    return (fields if isinstance(fields, dict) else {}), found
