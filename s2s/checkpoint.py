"""Checkpoints: a folder of config.json, safetensors and a tokenizer, and the one table from kind to class.

    support_desk/
      config.json          format, kinds and configs of codec and model, how to sample
      codec.safetensors    weights
      model.safetensors    weights; absent where there is a codec only
      tokenizer.json       text tokenizer
      phrases.json         what the agent may write, where that is all
      general_decoder.safetensors  of the codec, for any voice, where its own is the agent's

Nothing in these files chooses code to run: a `kind` is a key of the tables below, everything else is numbers and names
checked against the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from s2s.codec.base import CodecSpec
from s2s.codec.encodec import EncodecCodec, EncodecConfig
from s2s.codec.rvq import ResidualVectorQuantizer
from s2s.codec.spectral import SpectralCodec, SpectralCodecConfig
from s2s.config import from_dict, to_dict
from s2s.models.duplex import DuplexConfig, DuplexModel
from s2s.models.graphed import GraphedStep
from s2s.models.phrased import PhrasedStep
from s2s.models.step import DuplexStep, Step
from s2s.models.traced import TracedStep
from s2s.nn.sampling import Controls
from s2s.phrases import Phrases
from s2s.text import ByteTokenizer, Tokenizer, load_tokenizer
from s2s.weights import WeightFormat, WeightsError, read_weights, weight_sizes, write_weights

Speed = Literal["exact", "traced", "int8"]
T = TypeVar("T")

FORMAT = 1
CONFIG = "config.json"
GENERAL_DECODER = "general_decoder.safetensors"
ASSETS = Path(__file__).with_name("assets")

_PATTERNS = [CONFIG, "*.safetensors", "tokenizer.json", "phrases.json"]
_MAX_JSON_BYTES = 32 << 20
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read or trusted."""


class Kind(NamedTuple):
    """A class that a checkpoint may name, and the schema of its config."""

    config: type
    build: type


CODECS = {"spectral": Kind(SpectralCodecConfig, SpectralCodec), "encodec": Kind(EncodecConfig, EncodecCodec)}
MODELS = {"duplex": Kind(DuplexConfig, DuplexModel)}


@dataclass(frozen=True)
class Part:
    """A codec or a model: a key of the table of kinds and the fields of its config."""

    kind: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Defaults:
    """How a model likes to be run; `speed` is one of `Bundle.step`.

    The lead and lag say where the words of its text streams stand relative to what is heard, in steps.
    """

    temperature: float = 0.7
    top_k: int = 50
    speed: Speed = "traced"
    agent_lead_steps: int = 2
    user_lag_steps: int = 3


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json holds."""

    format: int
    codec: Part
    model: Part | None = None
    tokenizer: str | None = None
    defaults: Defaults = field(default_factory=Defaults)
    phrases: str | None = None
    general_decoder: bool = False


@dataclass
class Bundle:
    """What a checkpoint holds, ready to run. A bundle without a model is a codec alone.

    Where there are `phrases` the agent writes no others; without them it writes what it likes. Where the decoder of the
    codec has learned one voice, `general` is the same codec with one for any: the same tokens, heard otherwise.
    """

    codec: SpectralCodec | EncodecCodec
    model: DuplexModel | None = None
    tokenizer: Tokenizer | None = None
    defaults: Defaults = field(default_factory=Defaults)
    name: str = ""
    phrases: Phrases | None = None
    general: SpectralCodec | None = None

    def __post_init__(self) -> None:
        self.codec.eval()
        if self.general is not None:
            self.general.eval()
            _check_tokens(self.codec, self.general)
        if self.phrases is not None:
            if self.tokenizer is None or self.model is None:
                raise ValueError("phrases need a model and its tokenizer")
            self.phrases.graph(self.tokenizer)  # what is wrong with them is told now
        if self.model is None:
            return
        self.model.eval()
        _check_streams(self.model, self.codec.spec, self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.codec.parameters()).device

    def to(self, device: str) -> Bundle:
        """The same bundle, moved to "cpu" or "cuda"; ValueError where there is no such device."""
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"there is no device {device!r}: torch {torch.__version__} finds no GPU")
        self.codec.to(device)
        if self.general is not None:
            self.general.to(device)
        if self.model is not None:
            self.model.to(device)
        return self

    @property
    def config(self) -> CheckpointConfig:
        """The config.json of this bundle."""
        model = None if self.model is None else _part(MODELS, self.model)
        tokenizer = None if self.tokenizer is None else "tokenizer.json"
        phrases = None if self.phrases is None else "phrases.json"
        codec, general = _part(CODECS, self.codec), self.general is not None
        return CheckpointConfig(FORMAT, codec, model, tokenizer, self.defaults, phrases, general)

    def step(self, speed: Speed = "exact", kind: type[DuplexStep] | None = None) -> Step:
        """The step that makes a live conversation, or another kind of it; ValueError without a model.

        "traced" gives exactly what "exact" gives, faster, after seconds of preparation; "int8" multiplies with 8 bits,
        faster still, on a CPU: on a GPU it is the same as "traced". Without a `kind` it is the one on the phrases,
        where there are some.
        """
        if self.model is None:
            raise ValueError(f"{self.name or 'this checkpoint'} holds a codec only, so it has no step")
        speed_named(speed)
        if kind is None and self.phrases is not None and self.tokenizer is not None:
            step: DuplexStep = PhrasedStep(self.codec, self.model, self.phrases.graph(self.tokenizer))
        else:
            step = (kind or DuplexStep)(self.codec, self.model)
        if speed == "exact":
            return step
        return GraphedStep(step) if self.device.type == "cuda" else TracedStep(step, int8=speed == "int8")

    def codec_with(self, decoder: str | None = None) -> SpectralCodec | EncodecCodec:
        """The codec with its own decoder ("own") or the general one ("general"); None: the general one if there is one.

        Raises ValueError for a general one that there is not, and for another name.
        """
        if decoder not in (None, "own", "general"):
            raise ValueError(f"decoder is {decoder!r}, allowed are own and general")
        if decoder == "general" and self.general is None:
            raise ValueError(f"{self.name or 'this checkpoint'} has no general decoder, only its own")
        return self.codec if decoder == "own" or self.general is None else self.general

    def controls(
        self, rows: int = 1, temperature: float | None = None, top_k: int | None = None, seed: int = 0
    ) -> Controls:
        """Sampling controls; what is not given is as the model likes it."""
        temperature = self.defaults.temperature if temperature is None else temperature
        top_k = self.defaults.top_k if top_k is None else top_k
        return Controls.uniform(rows, temperature, top_k, seed, str(self.device))


def speed_named(name: str) -> Speed:
    """The speed of this name, or ValueError."""
    for speed in get_args(Speed):
        if speed == name:
            return speed
    raise ValueError(f"speed is {name!r}, allowed are {', '.join(get_args(Speed))}")


def load(name: str | Path) -> Bundle:
    """Load a checkpoint: a name that ships with the package, a folder, or an id on the hub ("owner/name").

    Raises CheckpointError, with the file and what is wrong, for anything that is not a whole and sound checkpoint.
    """
    folder = find(name)
    config = _read_config(folder / CONFIG)
    codec = _load_part(CODECS, config.codec, folder, "codec")
    model = None if config.model is None else _load_part(MODELS, config.model, folder, "model")
    tokenizer = _read_beside(folder, config.tokenizer, "tokenizer", load_tokenizer)
    phrases = _read_beside(folder, config.phrases, "phrases", Phrases.from_json)
    general = _load_general(codec, folder) if config.general_decoder else None
    try:
        return Bundle(codec, model, tokenizer, config.defaults, str(name), phrases, general)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error


def find(name: str | Path) -> Path:
    """The folder of a checkpoint, downloaded if it is on the hub; CheckpointError if there is none."""
    text = str(name)
    if re.fullmatch(r"[\w-]+", text) and (ASSETS / text / CONFIG).is_file():
        return ASSETS / text
    try:
        if text and Path(name).is_dir():
            return Path(name)
    except ValueError as error:  # a null character
        raise CheckpointError(f"{text!r} is not the name of a checkpoint: {error}") from error
    if isinstance(name, str) and _HUB_ID.fullmatch(text) and not text.startswith("."):
        return _download(text)
    raise CheckpointError(f"no checkpoint is called {text!r}: it is no folder, and the package has {_shipped()}")


def save(bundle: Bundle, path: Path | str, weight_format: WeightFormat = "float32") -> Path:
    """Write a bundle as a folder; what only training needs (the quantiser's statistics) is left out."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder / "codec.safetensors", _weights(bundle.codec), weight_format, _is_codebook)
        if bundle.general is not None:
            write_weights(folder / GENERAL_DECODER, _weights(bundle.general.decoder), weight_format)
        if bundle.model is not None:
            write_weights(folder / "model.safetensors", _weights(bundle.model), weight_format)
        if bundle.tokenizer is not None:
            (folder / "tokenizer.json").write_text(bundle.tokenizer.to_json(), encoding="utf-8")
        if bundle.phrases is not None:
            (folder / "phrases.json").write_text(bundle.phrases.to_json(), encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(to_dict(bundle.config), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot write ({error.strerror or error})") from error
    return folder


def push(bundle: Bundle, repo_id: str, weight_format: WeightFormat = "float32", private: bool = False) -> str:
    """Upload a bundle to the hub, creating the repository if need be; returns its address."""
    import tempfile

    from huggingface_hub import HfApi

    if not _HUB_ID.fullmatch(repo_id):
        raise CheckpointError(f"{repo_id!r} is not the id of a repository, allowed is owner/name")
    api = HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        save(bundle, scratch, weight_format)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=scratch, allow_patterns=_PATTERNS)
    return str(address)


def random_bundle(seed: int = 0, model: DuplexConfig | None = None, codec: SpectralCodecConfig | None = None) -> Bundle:
    """A model of the shipped shape with random weights: it runs like the trained one and knows nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = SpectralCodec(codec or SpectralCodecConfig())
        _forget_training(built)
        return Bundle(built, DuplexModel(model or DuplexConfig()), ByteTokenizer(), name="random")


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module that must have exactly these, statistics of the quantiser left aside."""
    own = _weights(module)
    if isinstance(module, DuplexModel):
        tensors = module.adapted(tensors)
    given = {name: value for name, value in tensors.items() if not _for_training(name)}
    for kind, names in (("missing", own.keys() - given.keys()), ("unknown", given.keys() - own.keys())):
        if names:
            raise CheckpointError(f"{source}: {kind} tensor {sorted(names)[0]} ({len(names)} in all)")
    with torch.no_grad():
        for name, value in own.items():
            if value.shape != given[name].shape:
                raise CheckpointError(
                    f"{source}: {name} has the shape {list(given[name].shape)}, the config says {list(value.shape)}"
                )
            value.copy_(given[name])
    _forget_training(module)


def _part(table: Mapping[str, Kind], module: Any) -> Part:
    kind = next(name for name, kind in table.items() if type(module) is kind.build)
    return Part(kind, to_dict(module.config))


def _load_part(table: Mapping[str, Kind], part: Part, folder: Path, name: str) -> Any:
    if part.kind not in table:
        raise CheckpointError(
            f"{folder / CONFIG}: {name}.kind is {part.kind!r}, allowed are {', '.join(map(repr, table))}"
        )
    kind, file = table[part.kind], folder / f"{name}.safetensors"
    try:
        config: Any = from_dict(kind.config, part.config)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: {name}.config: {error}") from error
    try:
        sizes = weight_sizes(file)
        with _no_larger_than(sum(sizes.values())):
            module = kind.build(config)
        like = _weights(module)
        if isinstance(module, DuplexModel):
            like = module.as_stored(like, sizes)
        load_weights(module, read_weights(file, like), str(file))
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    except (ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{folder / CONFIG}: {name}.config cannot be built: {reason}") from error
    return module


def _load_general(codec: Any, folder: Path) -> SpectralCodec:
    """The codec of a checkpoint with its general decoder; encoder and codebooks are the very same ones."""
    if not isinstance(codec, SpectralCodec):
        raise CheckpointError(f"{folder / CONFIG}: general_decoder is true, which only a spectral codec can have")
    file, general = folder / GENERAL_DECODER, SpectralCodec(codec.config)
    try:
        load_weights(general.decoder, read_weights(file, _weights(general.decoder)), str(file))
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    general.encoder, general.quantizer = codec.encoder, codec.quantizer
    return general


def _read_json(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {_MAX_JSON_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as text ({error})") from error


def _read_config(path: Path) -> CheckpointConfig:
    try:
        fields = json.loads(_read_json(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if isinstance(fields, dict) and fields.get("format", FORMAT) != FORMAT:
        raise CheckpointError(f"{path}: format is {fields['format']!r}, this version reads {FORMAT}")
    try:
        return from_dict(CheckpointConfig, fields)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_beside(folder: Path, name: str | None, what: str, read: Callable[[str], T]) -> T | None:
    """What a json file beside the config holds; None where the config names none."""
    if name is None:
        return None
    if not re.fullmatch(r"\w[\w-]*\.json", name):
        raise CheckpointError(f"{folder / CONFIG}: {what} is {name!r}, allowed is the name of a json file beside it")
    text = _read_json(folder / name)
    try:
        return read(text)
    except ValueError as error:
        raise CheckpointError(f"{folder / name}: {error}") from error


def _check_streams(model: DuplexModel, spec: CodecSpec, tokenizer: Tokenizer | None) -> None:
    """Raise ValueError where the token grid does not fit the codec or the tokenizer."""
    for stream in model.layout.streams:
        shape = (stream.num_rows, stream.vocab_size)
        if stream.num_rows > 1 and shape != (spec.num_codebooks, spec.codebook_size):
            raise ValueError(
                f"the stream {stream.name!r} has {shape[0]} rows of {shape[1]} codes, "
                f"the codec {spec.num_codebooks} of {spec.codebook_size}"
            )
        if stream.num_rows == 1 and tokenizer is not None and tokenizer.vocab_size > stream.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} entries, the stream {stream.name!r} only {stream.vocab_size}"
            )


def _check_tokens(codec: SpectralCodec | EncodecCodec, general: SpectralCodec) -> None:
    """Raise ValueError where a general decoder belongs to the tokens of another codec."""
    ours, theirs = ({n: x for n, x in _weights(c).items() if not n.startswith("decoder.")} for c in (codec, general))
    same = ours.keys() == theirs.keys() and all(torch.equal(x, theirs[name]) for name, x in ours.items())
    if not same or codec.config != general.config:
        raise ValueError("the general decoder was trained for the tokens of another codec")


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint stores of a module."""
    return {name: value for name, value in module.state_dict().items() if not _for_training(name)}


def _for_training(name: str) -> bool:
    return name.startswith("quantizer.") and not _is_codebook(name)


def _is_codebook(name: str) -> bool:
    return name == "quantizer.codebooks"


def _forget_training(module: nn.Module) -> None:
    """Let later training of a quantiser go on from its codebooks instead of starting them anew."""
    for quantizer in module.modules():
        if isinstance(quantizer, ResidualVectorQuantizer):
            quantizer.sums.copy_(quantizer.codebooks)
            quantizer.usage.fill_(1.0)
            quantizer.started.fill_(True)


@contextmanager
def _no_larger_than(num_values: int) -> Iterator[None]:
    """Refuse to build a module with many more values than its file has: a config alone must not exhaust the memory."""
    with _Budget(16 * num_values + (1 << 22)):
        yield


class _Budget(TorchDispatchMode):
    """Counts the values of all tensors that are made, and stops before one that is beyond the limit."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit, self.left = limit, limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], list | tuple) and all(isinstance(size, int) for size in args[0]):
            self._take(torch.Size(args[0]).numel() if all(size < 1 << 40 for size in args[0]) else self.limit)
        elif args and isinstance(args[0], int | float) and not isinstance(args[0], bool):
            self._take(int(args[0]))  # the length of a window or a range
        return func(*args, **(kwargs or {}))

    def _take(self, count: int) -> None:
        self.left -= count + 64  # what a tensor itself costs
        if self.left < 0:
            raise ValueError("it describes something far larger than its weights file")


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{repo_id!r} is no folder here and cannot be had from the hub: {reason}") from error


def _shipped() -> str:
    names = sorted(path.parent.name for path in ASSETS.glob(f"*/{CONFIG}"))
    return ", ".join(names) or "no model of its own"
