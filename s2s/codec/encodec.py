"""The `encodec` package's 24 kHz model, run through our streaming layers.

The package itself does not stream: its convolutions keep no context, its LSTMs start anew with every call, and it pads
by reflection, so that its first frames look ahead. Here every sequence starts from zero context: equal to the package
where that pads with constants, and equal to itself at any chunking.

Source: Defossez et al. 2022, "High Fidelity Neural Audio Compression".
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from s2s.codec.base import CodecSpec, check_codes, check_wav
from s2s.codec.rvq import ResidualVectorQuantizer
from s2s.nn.conv import CausalConv1d, CausalConvTranspose1d
from s2s.streaming import State

log = logging.getLogger(__name__)

MAX_CODEBOOKS = 32
BANDWIDTHS_KBPS = {1.5: 2, 3.0: 4, 6.0: 8, 12.0: 16, 24.0: 32}
"""The bandwidths the model was trained for and their codebooks."""


@dataclass(frozen=True)
class EncodecConfig:
    """Sizes of the package's 24 kHz model. `ratios` are the decoder's strides; their product is the frame size."""

    spec: CodecSpec = field(default_factory=lambda: CodecSpec(24000, 320, 8, 1024))
    num_filters: int = 32
    dimension: int = 128
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    num_lstm_layers: int = 2

    def __post_init__(self) -> None:
        if self.spec.num_codebooks > MAX_CODEBOOKS:
            raise ValueError(f"num_codebooks is {self.spec.num_codebooks}, allowed is 1..{MAX_CODEBOOKS}")
        if math.prod(self.ratios) != self.spec.frame_size:
            raise ValueError(
                f"the ratios {self.ratios} make frames of {math.prod(self.ratios)}, not {self.spec.frame_size}"
            )

    @staticmethod
    def at_bandwidth(kbps: float) -> EncodecConfig:
        """The 24 kHz model with as many codebooks as it uses at a bandwidth."""
        if kbps not in BANDWIDTHS_KBPS:
            raise ValueError(f"bandwidth is {kbps} kbps, allowed are {sorted(BANDWIDTHS_KBPS)}")
        return EncodecConfig(CodecSpec(24000, 320, BANDWIDTHS_KBPS[kbps], 1024))


@dataclass
class LSTMState:
    """hidden and cell of each layer, [B, layers, D]."""

    hidden: Tensor
    cell: Tensor


class ResidualLSTM(nn.Module):
    """LSTM layers whose output is added to their input, [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, num_layers: int):
        super().__init__()
        self.lstm = nn.LSTM(width, width, num_layers, batch_first=True)

    def init_state(self, rows: int) -> LSTMState:
        weight = next(self.lstm.parameters())
        shape = (rows, self.lstm.num_layers, self.lstm.hidden_size)
        return LSTMState(*(torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2)))

    def forward(self, x: Tensor, state: LSTMState | None = None) -> Tensor:
        if state is None:
            return x + self.lstm(x)[0]
        before = tuple(torch.stack(leaf.unbind(1)) for leaf in (state.hidden, state.cell))
        y, (hidden, cell) = self.lstm(x, before)
        state.hidden.copy_(hidden.transpose(0, 1).detach())
        state.cell.copy_(cell.transpose(0, 1).detach())
        return x + y


class Chain(nn.Sequential):
    """Layers one after the other, those with a state given theirs; the state is a list of those states."""

    def init_state(self, rows: int) -> list[State]:
        return [layer.init_state(rows) for layer in self._stateful()]  # type: ignore[operator]

    def forward(self, x: Tensor, state: list[State] | None = None) -> Tensor:
        states = iter(state if state is not None else [None] * len(self._stateful()))
        for layer in self:
            x = layer(x, next(states)) if hasattr(layer, "init_state") else layer(x)
        return x

    def _stateful(self) -> list[nn.Module]:
        return [layer for layer in self if hasattr(layer, "init_state")]


class ResidualBlock(nn.Module):
    """Two convolutions beside one of kernel size 1, [B, T, C] -> [B, T, C]."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 2
        self.block = Chain(nn.ELU(), CausalConv1d(channels, hidden, 3), nn.ELU(), CausalConv1d(hidden, channels, 1))
        self.shortcut = CausalConv1d(channels, channels, 1)

    def init_state(self, rows: int) -> list[State]:
        return self.block.init_state(rows)

    def forward(self, x: Tensor, state: list[State] | None = None) -> Tensor:
        return self.shortcut(x) + self.block(x, state)


def encoder_layers(config: EncodecConfig) -> Chain:
    """wav [B, N, 1] -> latent vectors [B, T, dimension]."""
    width = config.num_filters
    layers: list[nn.Module] = [CausalConv1d(1, width, 7)]
    for ratio in reversed(config.ratios):
        layers += [ResidualBlock(width), nn.ELU(), CausalConv1d(width, 2 * width, 2 * ratio, stride=ratio)]
        width *= 2
    layers += [ResidualLSTM(width, config.num_lstm_layers), nn.ELU(), CausalConv1d(width, config.dimension, 7)]
    return Chain(*layers)


def decoder_layers(config: EncodecConfig) -> Chain:
    """Quantised vectors [B, T, dimension] -> wav [B, N, 1]."""
    width = config.num_filters * 2 ** len(config.ratios)
    layers: list[nn.Module] = [CausalConv1d(config.dimension, width, 7), ResidualLSTM(width, config.num_lstm_layers)]
    for ratio in config.ratios:
        layers += [nn.ELU(), CausalConvTranspose1d(width, width // 2, 2 * ratio, ratio), ResidualBlock(width // 2)]
        width //= 2
    layers += [nn.ELU(), CausalConv1d(width, 1, 7)]
    return Chain(*layers)


class EncodecCodec(nn.Module):
    """The package's model as a `Codec`; `load_encodec` gives it its weights."""

    def __init__(self, config: EncodecConfig):
        super().__init__()
        self.config, self.spec = config, config.spec
        self.synthesis_delay = 0
        self.encoder = encoder_layers(config)
        self.quantizer = ResidualVectorQuantizer(config.spec.num_codebooks, config.spec.codebook_size, config.dimension)
        self.decoder = decoder_layers(config)

    def init_encoder(self, rows: int) -> list[State]:
        return self.encoder.init_state(rows)

    def init_decoder(self, rows: int) -> list[State]:
        return self.decoder.init_state(rows)

    def encode(self, wav: Tensor, state: list[State] | None = None) -> Tensor:
        """wav [B, 1, T * frame_size] -> codes [B, K, T]."""
        check_wav(wav, self.spec)
        return self.quantizer.encode(self.encoder(wav.transpose(1, 2), state))

    def decode(self, codes: Tensor, state: list[State] | None = None) -> Tensor:
        """codes [B, K, T] -> wav [B, 1, T * frame_size]."""
        check_codes(codes, self.spec)
        return self.decoder(self.quantizer.decode(codes), state).transpose(1, 2)

    def load_package_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take the state dict of the package's model; codebooks beyond ours are left out.

        Raises:
            ValueError: weights are missing, unknown or of another shape.
        """
        ours = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("quantizer.")}
        theirs = _translate(weights)
        codebooks = [theirs.pop(f"codebooks.{k}", None) for k in range(MAX_CODEBOOKS)][: self.spec.num_codebooks]
        expected = {name: list(tensor.shape) for name, tensor in ours.items()}
        expected |= {f"codebooks.{k}": list(self.quantizer.codebooks.shape[1:]) for k in range(len(codebooks))}
        found = {name: list(tensor.shape) for name, tensor in theirs.items()}
        found |= {f"codebooks.{k}": list(c.shape) for k, c in enumerate(codebooks) if c is not None}
        if found != expected:
            name = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise ValueError(
                f"these are not the weights of this EnCodec model: {name} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'nothing of that name')}"
            )
        self.load_state_dict(theirs, strict=False)
        for codebook, new in zip(self.quantizer.codebooks, codebooks, strict=True):
            codebook.copy_(new)


def load_encodec(config: EncodecConfig | None = None, source: str | Path | None = None) -> EncodecCodec:
    """The 24 kHz model with its trained weights.

    Args:
        config: sizes; the codebooks beyond its `num_codebooks` are left out.
        source: a file with the package's state dict, or a folder that holds it under the package's own name; None
            downloads it once, as the package does.

    Raises:
        ValueError: the weights cannot be had, or they are not the weights of this model.
    """
    codec = EncodecCodec(config or EncodecConfig())
    codec.load_package_weights(_read_file(Path(source)) if source is not None else _download())
    return codec.eval()


CHECKPOINT = "encodec_24khz-d7cc33bc.th"


def _read_file(path: Path) -> Mapping[str, Tensor]:
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected are the weights of the encodec package, {CHECKPOINT}")
    try:
        # Nothing in the file may choose code to run.
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no file of EnCodec weights: {reason}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} is no file of EnCodec weights: it holds no table of tensors")
    return weights


def _download() -> Mapping[str, Tensor]:
    from encodec.model import ROOT_URL

    try:
        return torch.hub.load_state_dict_from_url(
            ROOT_URL + CHECKPOINT, map_location="cpu", check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"cannot download the EnCodec weights from {ROOT_URL + CHECKPOINT} ({error}); "
            "give the file, or a folder that holds it, as the source"
        ) from error


def _translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the package to ours, weight norms folded in: g * v / |v|, the norm over all dimensions but the first."""
    ours = {}
    for name, tensor in weights.items():
        if name.startswith("quantizer."):
            parts = name.split(".")  # quantizer.vq.layers.K._codebook.embed, beside what only training needs
            if parts[-1] == "embed":
                ours[f"codebooks.{parts[3]}"] = tensor
            continue
        if name.endswith("weight_g"):
            direction = weights.get(name[:-1] + "v")
            if direction is None:
                raise ValueError(f"these are not the weights of an EnCodec model: {name} has no weight_v beside it")
            tensor = torch._weight_norm(direction, tensor, 0)
        elif name.endswith("weight_v"):
            continue
        name = name.replace(".model.", ".").replace("weight_g", "weight")
        # A transposed convolution of ours adds its bias after the overlapping parts.
        name = name.replace(".convtr.convtr.bias", ".bias").replace(".convtr.convtr.", ".conv.")
        ours[name.replace(".conv.conv.", ".conv.")] = tensor
    return ours
