"""The EnCodec adapter against the package itself, with random weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from encodec import EncodecModel
from encodec.modules import SConv1d, SEANetDecoder, SEANetEncoder
from encodec.quantization import ResidualVectorQuantizer

from s2s.codec.base import CodecSpec
from s2s.codec.encodec import CHECKPOINT, EncodecCodec, EncodecConfig, load_encodec


def randomise(model: EncodecModel) -> None:
    """Random weights, codebooks that cover the latents of noise, and constant padding."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        latents = model.encoder(torch.randn(1, 1, 40 * int(model.encoder.hop_length)))
        mean, std = latents.mean(dim=-1), latents.std(dim=-1)
        for name, buffer in model.named_buffers():
            if name.endswith("embed"):
                first = ".0._codebook" in name
                buffer.copy_((0.5 + 0.5 * first) * std * torch.randn_like(buffer) + mean * first)
    for module in model.modules():
        if isinstance(module, SConv1d):
            module.pad_mode = "constant"
    model.eval()


@pytest.fixture(scope="module")
def package() -> EncodecModel:
    """The package's 24 kHz model at full size."""
    torch.manual_seed(0)
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    randomise(model)
    return model


@pytest.fixture(scope="module")
def weights_file(package: EncodecModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encodec") / CHECKPOINT
    torch.save(package.state_dict(), path)
    return path


@pytest.mark.parametrize("kbps", [1.5, 6.0])
def test_equals_the_package(package: EncodecModel, weights_file: Path, kbps: float) -> None:
    codec = load_encodec(EncodecConfig.at_bandwidth(kbps), weights_file)
    package.set_target_bandwidth(kbps)
    wav = 0.3 * torch.randn(2, 1, 9 * 320)
    with torch.no_grad():
        latents = package.encoder(wav)
        torch.testing.assert_close(codec.encoder(wav.transpose(1, 2)).transpose(1, 2), latents, rtol=0, atol=1e-5)
        ((codes, _),) = package.encode(wav)
        assert len(codes.unique()) > 10
        assert torch.equal(codec.encode(wav), codes)
        expected = package.decode([(codes, None)])
        assert expected.std() > 1e-3
        torch.testing.assert_close(codec.decode(codes), expected, rtol=0, atol=1e-5)


def small_package(seed: int = 0) -> EncodecModel:
    """The package's model with other sizes: shorter strides, fewer filters, few codebooks."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"dimension": 6, "n_filters": 4, "ratios": [3, 2, 2], "causal": True}
    quantizer = ResidualVectorQuantizer(dimension=6, n_q=3, bins=16)
    model = EncodecModel(SEANetEncoder(**sizes), SEANetDecoder(**sizes), quantizer, [1.0], 900, 1)
    randomise(model)
    return model


SMALL = EncodecConfig(CodecSpec(900, 12, 3, 16), num_filters=4, dimension=6, ratios=(3, 2, 2))


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_package_at_other_sizes(seed: int) -> None:
    """In float64 the two are the same to the last digits, over a length at which a lost LSTM state would show."""
    package, codec = small_package(seed).double(), EncodecCodec(SMALL).double().eval()
    codec.load_package_weights(package.state_dict())
    wav = torch.randn(2, 1, 50 * 12, dtype=torch.float64)
    with torch.no_grad():
        ((codes, _),) = package.encode(wav)
        assert torch.equal(codec.encode(wav), codes)
        torch.testing.assert_close(codec.decode(codes), package.decode([(codes, None)]), rtol=0, atol=1e-11)


def test_the_package_looks_ahead_where_it_pads_by_reflection() -> None:
    """Why the first frames differ from those of the package as it comes."""
    package, codec = small_package(), EncodecCodec(SMALL).eval()
    codec.load_package_weights(package.state_dict())
    for module in package.modules():
        if isinstance(module, SConv1d):
            module.pad_mode = "reflect"
    wav = torch.randn(1, 1, 40 * 12)
    with torch.no_grad():
        difference = (codec.encoder(wav.transpose(1, 2)).transpose(1, 2) - package.encoder(wav)).abs().amax(dim=(0, 1))
    assert difference[0] > 1e-3
    assert difference[-1] < 1e-2 * difference[0]


def test_a_folder_holds_the_weights_under_the_name_of_the_package(weights_file: Path) -> None:
    codec = load_encodec(EncodecConfig.at_bandwidth(1.5), weights_file.parent)
    assert codec.spec == CodecSpec(24000, 320, 2, 1024)
    assert not codec.training
    assert codec.spec.bits_per_second == 1500


def test_errors_name_what_is_wrong(weights_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        load_encodec(source=tmp_path / "missing.th")
    truncated = tmp_path / "truncated.th"
    truncated.write_bytes(weights_file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"truncated.th is no file of EnCodec weights"):
        load_encodec(source=truncated)
    other = tmp_path / "other.th"
    torch.save([1, 2], other)
    with pytest.raises(ValueError, match="no table of tensors"):
        load_encodec(source=other)
    with pytest.raises(ValueError, match=r"bandwidth is 5 kbps, allowed are \[1.5, 3.0, 6.0, 12.0, 24.0\]"):
        EncodecConfig.at_bandwidth(5)
    with pytest.raises(ValueError, match=r"num_codebooks is 33, allowed is 1..32"):
        EncodecConfig(CodecSpec(24000, 320, 33, 1024))
    with pytest.raises(ValueError, match="make frames of 320, not 960"):
        EncodecConfig(CodecSpec(24000, 960, 8, 1024))


def test_weights_of_another_model_are_refused() -> None:
    weights = small_package().state_dict()
    codec = EncodecCodec(SMALL)
    missing = {name: value for name, value in weights.items() if name != "decoder.model.1.lstm.bias_hh_l1"}
    with pytest.raises(ValueError, match=r"decoder.1.lstm.bias_hh_l1 is missing, expected \[128\]"):
        codec.load_package_weights(missing)
    with pytest.raises(ValueError, match=r"encoder.99.conv.weight is .*, expected nothing of that name"):
        codec.load_package_weights(weights | {"encoder.model.99.conv.conv.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"codebooks.0 is \[17, 6\], expected \[16, 6\]"):
        codec.load_package_weights(weights | {"quantizer.vq.layers.0._codebook.embed": torch.zeros(17, 6)})
    with pytest.raises(ValueError, match="has no weight_v beside it"):
        codec.load_package_weights({k: v for k, v in weights.items() if not k.endswith("weight_v")})
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    with pytest.raises(ValueError, match=r"codebooks.2 is missing"):
        codec.load_package_weights({k: v for k, v in weights.items() if ".2._codebook.embed" not in k})
    assert all(torch.equal(before[name], value) for name, value in codec.state_dict().items())


class Intruder:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("1 + 1",))


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "bad.th"
    torch.save({"encoder": Intruder()}, path)
    with pytest.raises(ValueError, match="is no file of EnCodec weights"):
        load_encodec(source=path)
    path.write_bytes(pickle.dumps(Intruder(), protocol=2))
    with pytest.raises(ValueError, match="is no file of EnCodec weights"):
        load_encodec(source=path)


def test_downloads_as_the_package_does(package: EncodecModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, **settings: object) -> dict[str, torch.Tensor]:
        asked.append((url, settings))
        return package.state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    codec = load_encodec()
    assert codec.spec.num_codebooks == 8
    ((url, settings),) = asked
    assert url == "https://dl.fbaipublicfiles.com/encodec/v0/encodec_24khz-d7cc33bc.th"
    assert settings["check_hash"] is True and settings["weights_only"] is True


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, **settings: object) -> dict[str, torch.Tensor]:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    with pytest.raises(ValueError, match=r"cannot download the EnCodec weights from .*no route to host.*as the source"):
        load_encodec()
