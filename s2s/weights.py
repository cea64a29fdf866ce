"""Weights on disk: named tensors in a safetensors file, whole, in half precision or in 8 bits per value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

WeightFormat = Literal["float32", "float16", "int8"]

_SCALE = "::scale"
_MIN_SHARED = 16  # values that share a scale at least, so that scales stay a small part of the file
_MAX_HALF = 65504.0
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8}


class WeightsError(ValueError):
    """A file that does not hold the weights it should hold."""


def write_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    weight_format: WeightFormat,
    fine: Callable[[str], bool] = lambda name: False,
) -> None:
    """Write float tensors under their names.

    "int8" stores tensors of two and more dimensions as symmetric 8-bit integers with a float32 scale per output row,
    those whose name is `fine` in float16, and the others (biases, norms) in float32. The file appears whole or not at
    all. Raises ValueError for an unknown format and for values that are not finite.
    """
    if weight_format not in get_args(WeightFormat):
        raise ValueError(f"weight format {weight_format!r} is unknown, allowed are {', '.join(get_args(WeightFormat))}")
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().float()
        if not torch.isfinite(values).all():
            raise WeightsError(f"{name} holds NaN or infinity and is not written to {path}")
        if weight_format == "int8" and values.dim() >= 2 and not fine(name):
            stored[name], stored[name + _SCALE] = _to_int8(values)
        elif weight_format == "float32" or values.dim() < 2 or values.abs().max() > _MAX_HALF:
            stored[name] = values.contiguous()
        else:
            stored[name] = values.half().contiguous()
    part = path.with_name(path.name + ".tmp")
    save_file(stored, str(part), metadata={"format": "pt", "weights": weight_format})
    part.replace(path)


def weight_sizes(path: Path) -> dict[str, int]:
    """The number of values of every tensor in a file, read from its header alone."""
    with _open(path) as file:
        sizes = {}
        for name in file.keys():  # noqa: SIM118 a safetensors file is not a dict
            count = 1
            for size in file.get_slice(name).get_shape():
                count *= size
            sizes[name] = count
        return sizes


def read_weights(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read exactly the tensors of `like`, in its shapes and dtypes, from a file of `write_weights`.

    Raises WeightsError when the file is damaged or no safetensors file at all, or when a tensor is missing, unknown, of
    another shape or a dtype that weights do not have, or not finite. Shapes are compared before anything is read.
    """
    with _open(path) as file:
        names = set(file.keys())
        _check_names(path, {n.removesuffix(_SCALE) for n in names}, set(like))
        out = {}
        for name, expected in like.items():
            if name not in names:
                raise WeightsError(f"{path}: {name} has a scale but no values")
            shape, dtype = _header(file, path, name)
            if shape != list(expected.shape):
                raise WeightsError(f"{path}: {name} has the shape {shape}, expected {list(expected.shape)}")
            if (dtype == torch.int8) != (name + _SCALE in names):
                raise WeightsError(f"{path}: {name} is {dtype}, but 8-bit values, and only those, come with a scale")
            values = file.get_tensor(name).float()
            if dtype == torch.int8:
                values *= _scale(file, path, name, values)
            if not torch.isfinite(values).all():
                raise WeightsError(f"{path}: {name} holds NaN or infinity")
            out[name] = values.to(expected.dtype)
    return out


def mean_weights(several: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of the weights of models of one shape, tensor by tensor; what is no float is that of the first.

    Checkpoints of one training, or of trainings that continue each other, lie close enough for their mean to be as good
    a model and often a better one (Wortsman et al. 2022, "Model soups").

    Raises WeightsError where names or shapes differ.
    """
    first, *others = several
    for other in others:
        if differ := sorted(n for n in first.keys() | other.keys() if _shape(first, n) != _shape(other, n)):
            raise WeightsError(f"models of other shapes have no mean: {differ[0]} and {len(differ) - 1} more differ")
    return {
        name: torch.stack([weights[name] for weights in several]).mean(dim=0) if value.is_floating_point() else value
        for name, value in first.items()
    }


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


def _to_int8(values: Tensor) -> tuple[Tensor, Tensor]:
    """Integers of the same shape, and scales [rows, 1 ...] so that integers times scales are the values."""
    scale = values.abs().amax(dim=_shared_dims(values), keepdim=True).clamp(min=1e-12) / 127
    return (values / scale).round().clamp(-127, 127).to(torch.int8), scale


def _shared_dims(values: Tensor) -> list[int]:
    """The last dimensions, as many as it takes for enough values to share a scale; never the first one."""
    dims, count = [values.dim() - 1], values.shape[-1]
    while count < _MIN_SHARED and dims[-1] > 1:
        dims.append(dims[-1] - 1)
        count *= values.shape[dims[-1]]
    return dims


def _open(path: Path) -> safe_open:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a safetensors file that can be read ({error})") from error


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    for kind, names in (("missing", expected - found), ("unknown", found - expected)):
        if names:
            first, more = sorted(names)[0], f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(f"{path}: {kind} tensor {first}{more}")


def _header(file: safe_open, path: Path, name: str) -> tuple[list[int], torch.dtype]:
    piece = file.get_slice(name)
    code = piece.get_dtype()
    if code not in _DTYPES:
        raise WeightsError(f"{path}: {name} is {code}, allowed are {', '.join(_DTYPES)}")
    return list(piece.get_shape()), _DTYPES[code]


def _scale(file: safe_open, path: Path, name: str, values: Tensor) -> Tensor:
    shape, dtype = _header(file, path, name + _SCALE)
    shared = _shared_dims(values) if values.dim() >= 2 else []
    expected = [1 if dim in shared else size for dim, size in enumerate(values.shape)]
    if not shared or shape != expected or dtype != torch.float32:
        raise WeightsError(f"{path}: {name}{_SCALE} is {dtype} {shape}, expected {torch.float32} {expected}")
    scale: Tensor = file.get_tensor(name + _SCALE)
    return scale
