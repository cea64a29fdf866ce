"""`s2s transcribe` and `s2s speak`: what they print, what they write, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from s2s.checkpoint import Bundle, Defaults, save
from s2s.streams import dialogue_layout
from s2s.text import ByteTokenizer
from tests.cli.test_cli import RATE, as_json, error_line, s2s, tone
from tests.tiny import SPEC, tiny_codec, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that spells."""
    layout = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, 256)
    bundle = Bundle(tiny_codec(), tiny_model(layout, spelling_layer=1), ByteTokenizer(), Defaults(speed="exact"))
    return str(save(bundle, tmp_path_factory.mktemp("models") / "spelling"))


@pytest.fixture
def caller(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "caller.wav", tone(0.6), RATE)
    return tmp_path / "caller.wav"


@pytest.fixture(autouse=True)
def soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights are never quiet."""
    monkeypatch.setattr("s2s.evaluation.speak.TAIL_S", 0.4)
    monkeypatch.setattr("s2s.evaluation.transcribe.TAIL_S", 0.4)


def test_transcribe_prints_the_text_or_one_object(model: str, caller: Path) -> None:
    result = as_json(s2s("transcribe", caller, "--model", model, "--json"))
    assert set(result) == {"text", "words", "letters", "duration_s", "rtf", "rtfx", "model"}
    assert result["text"] == " ".join(word["text"] for word in result["words"])
    assert result["rtf"] == pytest.approx(1 / result["rtfx"])
    plain = s2s("transcribe", caller, "--model", model)
    assert plain.stdout == result["text"] + "\n" and "RTFx" in plain.stderr
    assert s2s("transcribe", caller, "--model", model, "--letters").stdout == result["letters"] + "\n"


def test_transcribe_streams_words(model: str, caller: Path) -> None:
    result = s2s("transcribe", caller, "--model", model, "--stream", "--json")
    *words, whole = [json.loads(line) for line in result.stdout.strip().split("\n")]
    assert result.exit_code == 0 and set(whole) == set(as_json(s2s("transcribe", caller, "--model", model, "--json")))
    assert all(set(word) == {"text", "start_s", "end_s", "at_s", "again"} for word in words)
    times = [word["at_s"] for word in words]
    assert times == sorted(times)
    shown = s2s("transcribe", caller, "--model", model, "--stream").stdout
    assert shown.count(" s  ") >= shown.count("\n") == len(words), "a line each"


def test_transcribe_mistakes_are_one_line(model: str, tmp_path: Path) -> None:
    assert "missing.wav" in error_line(s2s("transcribe", tmp_path / "missing.wav", "--model", model))
    soundfile.write(tmp_path / "in.wav", tone(0.2), RATE)
    wav = tmp_path / "in.wav"
    assert "no channel 3" in error_line(s2s("transcribe", wav, "--model", model, "--channel", 3))
    assert "speed is 'fast'" in error_line(s2s("transcribe", wav, "--model", model, "--speed", "fast"))
    layout = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, 256)
    save(Bundle(tiny_codec(), tiny_model(layout), ByteTokenizer(), Defaults(speed="exact")), tmp_path / "plain")
    assert "does not spell" in error_line(s2s("transcribe", wav, "--model", tmp_path / "plain", "--letters"))
    assert as_json(s2s("transcribe", wav, "--model", tmp_path / "plain", "--json"))["letters"] is None
    save(Bundle(tiny_codec()), tmp_path / "codec")
    assert "no model that writes down" in error_line(s2s("transcribe", wav, "--model", tmp_path / "codec"))


def test_speak_writes_the_voice(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    result = as_json(s2s("speak", "hi you", out, "--model", model, "--seed", 2, "--json"))
    wav, rate = soundfile.read(out)
    assert rate == RATE and len(wav) / rate == pytest.approx(result["duration_s"])
    assert (result["text"], result["output"], result["seed"]) == ("hi you", str(out), 2)
    assert [word["text"] for word in result["words"]] == ["hi", "you"]
    assert {"pushed_words", "first_audio_ms", "rtf", "rtfx", "model"} <= set(result)
    shown = s2s("speak", "hi you", out, "--model", model)
    assert [line.split()[-1] for line in shown.stdout.splitlines()] == ["hi", "you"]
    assert f"wrote {out}" in shown.stderr.replace("\n", "")


def test_speak_mistakes_are_one_line(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    assert "no words" in error_line(s2s("speak", " ", out, "--model", model))
    assert "allowed are 1024" in error_line(s2s("speak", "a" * 2000, out, "--model", model))
    assert "does not exist" in error_line(s2s("speak", "hi", tmp_path / "no" / "out.wav", "--model", model))
    assert "no checkpoint is called" in error_line(s2s("speak", "hi", out, "--model", "nope"))
    assert not out.exists()
    assert s2s("speak", "hi").exit_code == 2


@pytest.mark.parametrize("command", ["transcribe", "speak"])
def test_both_have_help(command: str) -> None:
    assert len(s2s(command, "--help").output) > 200
