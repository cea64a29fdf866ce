"""Checkpoints: what is saved comes back; files that are damaged, swapped or made to harm do nothing but fail."""

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import s2s
from s2s import checkpoint
from s2s.checkpoint import Bundle, CheckpointError, Defaults, load, save
from s2s.codec.spectral import SpectralCodec
from s2s.config import to_dict
from s2s.models.duplex import DuplexModel
from s2s.models.phrased import PhrasedStep
from s2s.models.step import DuplexStep
from s2s.nn.sampling import Controls
from s2s.phrases import Phrase, Phrases
from s2s.streams import dialogue_layout
from s2s.text import BpeTokenizer, ByteTokenizer
from s2s.trained import codec_of, model_of
from tests.tiny import SPEC, stirred, tiny_codec, tiny_model

LAYOUT = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, 256)


def tiny_bundle() -> Bundle:
    return Bundle(tiny_codec(), tiny_model(LAYOUT), ByteTokenizer(), Defaults(temperature=0.5, speed="exact"), "tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tiny_bundle(), tmp_path / "tiny")


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads((folder / "config.json").read_text())
    change(fields)
    (folder / "config.json").write_text(json.dumps(fields))


def run(bundle: Bundle) -> torch.Tensor:
    step = bundle.step()
    state = step.init_state(1)
    generator = torch.Generator().manual_seed(0)
    frames = [torch.randn(1, 1, step.step_size, generator=generator) for _ in range(5)]
    return torch.cat([step(frame, state, Controls.uniform(1)).wav for frame in frames], dim=-1)


def test_a_stream_that_is_not_read_may_have_a_whole_table(tmp_path: Path) -> None:
    unread = replace(tiny_bundle().model.config, unread=("user_text",))  # type: ignore[union-attr]
    bundle = replace(tiny_bundle(), model=stirred(DuplexModel(unread)))
    folder = save(bundle, tmp_path / "unread")
    file, name = folder / "model.safetensors", "embeddings.user_text.weight"
    weights = load_file(str(file))
    weights[name] = torch.cat([torch.randn(256, weights[name].shape[1]), weights[name]])
    save_file(weights, str(file), metadata={"format": "pt", "weights": "float32"})
    assert torch.equal(run(s2s.load(folder)), run(bundle))


def test_a_saved_bundle_says_the_same(folder: Path) -> None:
    loaded = s2s.load(folder)
    assert torch.equal(run(loaded), run(tiny_bundle()))
    assert loaded.defaults == Defaults(temperature=0.5, speed="exact")
    assert loaded.tokenizer is not None and loaded.tokenizer.decode([104, 105]) == "hi"
    assert loaded.config == tiny_bundle().config


@pytest.mark.parametrize(("weight_format", "bound"), [("float16", 1e-3), ("int8", 1e-2)])
def test_small_formats_are_close_and_small(folder: Path, tmp_path: Path, weight_format: Any, bound: float) -> None:
    small = save(tiny_bundle(), tmp_path / "small", weight_format)
    one, other = load(folder).model, load(small).model
    assert one is not None and other is not None
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert (a - b).abs().max() <= bound * a.abs().max(), name
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, small)]
    assert sizes[1] < sizes[0]


def test_a_codec_alone_is_a_checkpoint(tmp_path: Path) -> None:
    loaded = load(save(Bundle(tiny_codec()), tmp_path / "codec"))
    assert loaded.model is None and loaded.tokenizer is None
    wav = torch.randn(1, 1, 4 * SPEC.frame_size)
    assert torch.equal(loaded.codec.encode(wav), tiny_codec().encode(wav))
    with pytest.raises(ValueError, match="holds a codec only"):
        loaded.step()


def test_exports_leave_out_what_training_needs_and_training_goes_on_from_them(folder: Path) -> None:
    names = set(load_file(folder / "codec.safetensors"))
    assert "quantizer.codebooks" in names
    assert not names & {"quantizer.usage", "quantizer.sums", "quantizer.started"}
    quantizer = load(folder).codec.quantizer
    assert quantizer.started.all()
    assert torch.equal(quantizer.sums, quantizer.codebooks)


def with_general(codec: SpectralCodec) -> SpectralCodec:
    """The same tokens by another decoder."""
    general = SpectralCodec(codec.config)
    weights = general.state_dict() | {n: x for n, x in codec.state_dict().items() if not n.startswith("decoder.")}
    general.load_state_dict(weights)
    return general


@torch.no_grad()
def test_a_general_decoder_comes_back_and_leaves_the_agent_alone(folder: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    assert isinstance(bundle.codec, SpectralCodec) and bundle.codec_with() is bundle.codec
    bundle.general = with_general(bundle.codec)
    loaded = load(save(bundle, tmp_path / "both"))
    assert isinstance(loaded.codec, SpectralCodec) and loaded.general is not None
    assert torch.equal(run(loaded), run(load(folder)))
    codes = torch.randint(SPEC.codebook_size, (1, SPEC.num_codebooks, 6))
    assert torch.equal(loaded.codec_with().decode(codes), bundle.general.decode(codes))
    assert not torch.equal(loaded.codec_with("own").decode(codes), loaded.codec_with("general").decode(codes))
    assert loaded.general.encoder is loaded.codec.encoder and loaded.general.quantizer is loaded.codec.quantizer
    assert torch.equal(codec_of(str(tmp_path / "both"), "general").decode(codes), bundle.general.decode(codes))
    with pytest.raises(ValueError, match="has no general decoder"):
        load(folder).codec_with("general")
    with pytest.raises(ValueError, match="decoder is 'mine', allowed are own and general"):
        loaded.codec_with("mine")
    (tmp_path / "both" / "general_decoder.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError, match=r"general_decoder\.safetensors"):
        load(tmp_path / "both")


def test_a_general_decoder_knows_its_tokens(folder: Path) -> None:
    bundle = tiny_bundle()
    with pytest.raises(ValueError, match="tokens of another codec"):
        Bundle(bundle.codec, general=SpectralCodec(tiny_codec().config))
    edit(folder, lambda fields: fields.update(general_decoder=True))
    with pytest.raises(CheckpointError, match=r"general_decoder\.safetensors"):
        load(folder)


def test_phrases_come_back_and_bind_the_agent(folder: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    bundle.phrases = Phrases((Phrase("yes."), Phrase("no.")))
    loaded = load(save(bundle, tmp_path / "phrased"))
    assert loaded.phrases == bundle.phrases and isinstance(loaded.step(), PhrasedStep)
    assert type(loaded.step(kind=DuplexStep)) is DuplexStep
    loaded.phrases = None
    assert type(loaded.step()) is DuplexStep and type(load(folder).step()) is DuplexStep


def test_phrases_that_cannot_be_said_are_named(tmp_path: Path) -> None:
    folder = save(tiny_bundle(), tmp_path / "tiny")
    edit(folder, lambda c: c.update(phrases="phrases.json"))
    with pytest.raises(CheckpointError, match=r"phrases\.json: no such file"):
        load(folder)
    (folder / "phrases.json").write_text('{"phrases": [{"text": "It is {x}."}]}')
    with pytest.raises(CheckpointError, match=r"phrases\.json: .*slot 'x'"):
        load(folder)
    (folder / "phrases.json").write_text('{"phrases": [{"text": "Bye.", "action": "hangup"}]}')
    with pytest.raises(CheckpointError, match="action 'hangup' is none of the tokenizer's"):
        load(folder)
    edit(folder, lambda c: c.update(phrases="../phrases.json"))
    with pytest.raises(CheckpointError, match=r"phrases is '\.\./phrases\.json', allowed is the name"):
        load(folder)
    with pytest.raises(ValueError, match="phrases need a model and its tokenizer"):
        Bundle(tiny_codec(), tiny_model(LAYOUT), phrases=Phrases((Phrase("yes."),)))
    with pytest.raises(ValueError, match="phrases need a model and its tokenizer"):
        Bundle(tiny_codec(), tokenizer=ByteTokenizer(), phrases=Phrases((Phrase("yes."),)))


def test_a_bpe_tokenizer_comes_back(tmp_path: Path) -> None:
    tokenizer = BpeTokenizer.train(["the parcel is here", "the parcel is late"], 256)
    bundle = Bundle(tiny_codec(), tiny_model(LAYOUT), tokenizer)
    loaded = load(save(bundle, tmp_path / "x")).tokenizer
    assert loaded is not None and loaded.encode("the parcel") == tokenizer.encode("the parcel")


def test_shipped_names_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "ASSETS", folder.parent)
    assert load("tiny").model is not None
    with pytest.raises(CheckpointError, match="called 'tini': it is no folder, and the package has tiny"):
        load("tini")


@pytest.mark.parametrize("name", ["nope", "../nope", "/nope/x", "a/b/c", "", "nul\0l", "./x/y"])
def test_no_such_checkpoint(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint is called|not the name of a checkpoint"):
        load(name)


def test_a_hub_id_downloads_only_what_a_checkpoint_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        asked[repo_id] = allow_patterns
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load("some-owner/a.model").model is not None
    assert asked == {"some-owner/a.model": ["config.json", "*.safetensors", "tokenizer.json", "phrases.json"]}


def test_an_unreachable_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        raise OSError("no connection\nand many more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(
        CheckpointError, match=r"'o/m' is no folder here and cannot be had from the hub: no connection$"
    ):
        load("o/m")


def test_push_uploads_what_save_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}

    class Api:
        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
            calls["created"] = repo_id, private, exist_ok
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id: str, folder_path: str, allow_patterns: list[str]) -> None:
            calls["files"] = sorted(path.name for path in Path(folder_path).iterdir())

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert checkpoint.push(tiny_bundle(), "me/mine", "int8", private=True) == "https://hub/me/mine"
    assert calls["created"] == ("me/mine", True, True)
    assert calls["files"] == ["codec.safetensors", "config.json", "model.safetensors", "tokenizer.json"]
    with pytest.raises(CheckpointError, match="allowed is owner/name"):
        checkpoint.push(tiny_bundle(), "../mine")


class Harm:
    """Would create a file if anything unpickled it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_in_disguise_runs_nothing(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "harmed"
    for data in (pickle.dumps(Harm(mark)), b"PK\x03\x04" + pickle.dumps(Harm(mark))):
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load(folder)
    torch.save({"state_dict": {"model.x": torch.zeros(1)}, "harm": Harm(mark)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(folder)
    torch.save({"state_dict": {"model.x": torch.zeros(1)}, "harm": Harm(mark)}, folder / "x.ckpt")
    with pytest.raises(CheckpointError, match="can be read safely"):
        model_of(str(folder / "x.ckpt"))
    assert not mark.exists()


def damaged(data: bytes, how: str) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    return {
        "empty": b"",
        "eight bytes": data[:8],
        "half a header": data[: 8 + length // 2],
        "truncated": data[:-1],
        "more behind": data + b"\0",
        "oversized header": struct.pack("<Q", 1 << 62) + data[8:],
        "header beyond the file": struct.pack("<Q", len(data)) + data[8:],
        "no json": data[:8] + b"{" * length + data[8 + length :],
        "text": b"once upon a time there was a model" * 100,
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "eight bytes",
        "half a header",
        "truncated",
        "more behind",
        "oversized header",
        "header beyond the file",
        "no json",
        "text",
    ],
)
@pytest.mark.parametrize("file", ["codec.safetensors", "model.safetensors"])
def test_damaged_weights(folder: Path, file: str, how: str) -> None:
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(damaged(data, how))
    with pytest.raises(CheckpointError, match=rf"{file}: not a safetensors file that can be read"):
        load(folder)


def test_swapped_tensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = load_file(path)
    name = "backbone.norm.weight"
    for change, message in (
        ({name: good[name][:-1].clone()}, rf"{name} has the shape \[23\], expected \[24\]"),
        ({name: good[name].long()}, f"{name} is I64"),
        ({"extra": torch.zeros(1)}, "unknown tensor extra"),
        ({name: good[name] * float("nan")}, f"{name} holds NaN"),
    ):
        save_file(good | change, path)
        with pytest.raises(CheckpointError, match=message):
            load(folder)
    save_file({key: value for key, value in good.items() if key != name}, path)
    with pytest.raises(CheckpointError, match=f"missing tensor {name}"):
        load(folder)


def test_weights_of_another_part(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "codec.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing tensor"):
        load(folder)


@pytest.mark.parametrize("file", ["config.json", "codec.safetensors", "model.safetensors", "tokenizer.json"])
def test_missing_files(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=rf"{file}: no such file"):
        load(folder)


CONFIGS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda c: c.update(modle={}), r"modle: unknown key; did you mean 'model'\?"),
    (lambda c: c.pop("codec"), "codec: missing key"),
    (lambda c: c.update(format=99), "format is 99, this version reads 1"),
    (lambda c: c["codec"].update(kind="specktral"), r"codec\.kind is 'specktral', allowed are 'spectral', 'encodec'"),
    (lambda c: c["codec"].update(kind="duplex"), r"codec\.kind is 'duplex'"),
    (lambda c: c["model"].update(kind=["duplex"]), r"model\.kind: expected str"),
    (lambda c: c["model"].update(_target_="os.system"), r"model\._target_: unknown key"),
    (lambda c: c["model"]["config"].update(_target_="os.system"), r"model\.config: _target_: unknown key"),
    (
        lambda c: c["model"]["config"]["backbone"].update(num_head=4),
        r"model\.config: backbone\.num_head: unknown key; did you mean 'num_heads'\?",
    ),
    (lambda c: c["model"]["config"]["backbone"].update(width="24"), r"backbone\.width: expected int"),
    (lambda c: c["model"]["config"]["backbone"].update(width=25), r"model\.config cannot be built: width 25"),
    (lambda c: c["model"]["config"]["backbone"].update(width=48), "has the shape"),
    (lambda c: c["model"]["config"]["backbone"].update(width=1 << 24), "far larger than its weights file"),
    (lambda c: c["model"]["config"]["backbone"].update(num_layers=10**9), "far larger than its weights file"),
    (lambda c: c["model"]["config"]["backbone"].update(hidden=1 << 62), r"model\.config cannot be built"),
    (lambda c: c["model"]["config"]["backbone"].update(num_heads=0), r"model\.config cannot be built"),
    (lambda c: c["codec"]["config"].update(analysis_window=1 << 40), r"codec\.config cannot be built"),
    (lambda c: c["codec"]["config"].update(frame_depth=-3), "codec"),
    (lambda c: c["codec"]["config"]["spec"].update(num_codebooks=0), "num_codebooks is 0"),
    (lambda c: c["defaults"].update(speed="warp"), r"defaults\.speed: got 'warp', allowed are 'exact'"),
    (lambda c: c.update(tokenizer="../tokenizer.json"), "tokenizer is '../tokenizer.json', allowed is the name"),
    (lambda c: c.update(tokenizer="/etc/passwd"), "tokenizer is '/etc/passwd'"),
    (lambda c: c.update(tokenizer="a\\b.json"), "tokenizer is"),
    (lambda c: c.update(tokenizer=""), "tokenizer is ''"),
    (lambda c: c.update(tokenizer="config.json"), r"config\.json: not a BPE tokenizer"),
]


@pytest.mark.parametrize(("change", "message"), CONFIGS, ids=range(len(CONFIGS)))
def test_configs_that_are_wrong_or_mean_harm(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(folder, lambda fields: change(fields) and None)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000, "\udcff", '{"format": 1}'])
def test_config_files_that_are_no_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": {"type": "Evil"}}', "{" * 5000])
def test_tokenizer_files_that_are_no_tokenizer(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load(folder)


def test_parts_must_fit() -> None:
    with pytest.raises(ValueError, match="the tokenizer has 256 entries, the stream 'user_text' only 19"):
        Bundle(tiny_codec(), tiny_model(), ByteTokenizer())
    other = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size + 1, 256)
    with pytest.raises(ValueError, match="the stream 'user' has 4 rows of 33 codes, the codec 4 of 32"):
        Bundle(tiny_codec(), tiny_model(other))


def training_checkpoint(path: Path, weights: dict[str, Any], config: Any) -> str:
    """As Lightning writes it: averages in state_dict, what training goes on with beside it."""
    current = {name: value + 1 for name, value in weights.items()}
    stored = {"state_dict": weights, "current_model_state": current, "epoch": 3, "callbacks": {"x": {"y": None}}}
    torch.save(stored | ({} if config is None else {"config": config}), path)
    return str(path)


def test_training_checkpoints_become_bundles(tmp_path: Path) -> None:
    codec, model = tiny_codec(), tiny_model(LAYOUT)
    weights = {f"codec.{k}": v for k, v in codec.state_dict().items()} | {"discriminators.x": torch.zeros(1)}
    codec_file = training_checkpoint(tmp_path / "codec.ckpt", weights, {"codec": to_dict(codec.config)})
    weights = {f"model.{k}": v for k, v in model.state_dict().items()}
    model_file = training_checkpoint(tmp_path / "model.ckpt", weights, {"model": to_dict(model.config), "lr": 1.0})
    bundle = Bundle(codec_of(codec_file), model_of(model_file), ByteTokenizer())
    assert torch.equal(run(bundle), run(tiny_bundle()))


def test_training_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    model = tiny_model(LAYOUT)
    weights = {f"model.{k}": v for k, v in model.state_dict().items()}
    for stored, config, message in (
        ({}, None, "no tensor's name begins with 'model.'"),
        (weights, {"model": {"widht": 3}}, r"its model config: widht: unknown key"),
        (weights | {"model.extra": torch.zeros(1)}, {"model": to_dict(model.config)}, "unknown tensor extra"),
    ):
        with pytest.raises(CheckpointError, match=message):
            model_of(training_checkpoint(tmp_path / "m.ckpt", stored, config))
    with pytest.raises(CheckpointError, match="no such file"):
        codec_of(str(tmp_path / "none.ckpt"))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        codec_of(str(tmp_path / "text.ckpt"))


def test_every_kind_has_one_class() -> None:
    assert checkpoint.CODECS["spectral"].build is SpectralCodec
    assert checkpoint.MODELS["duplex"].build is DuplexModel


def test_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(tiny_bundle(), tmp_path / "file" / "x")
