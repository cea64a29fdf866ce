"""The command line: what it prints, what it writes, and one clear line for every mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import Result
from typer.testing import CliRunner

from s2s.checkpoint import Bundle, Defaults, load, save
from s2s.cli.main import app
from s2s.codec.spectral import SpectralCodec
from s2s.data.align import AGENT_LEAD_STEPS
from s2s.data.folder import write_folder
from s2s.data.schema import Dialogue, Word
from s2s.phrases import Phrase, Phrases
from s2s.streams import dialogue_layout
from s2s.text import ByteTokenizer
from tests.tiny import SPEC, tiny_codec, tiny_model

RATE = SPEC.sample_rate
CALLER = Path(__file__).parents[1] / "evaluation" / "caller.ogg"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    layout = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, 256)
    bundle = Bundle(tiny_codec(), tiny_model(layout), ByteTokenizer(), Defaults(speed="exact"))
    return str(save(bundle, tmp_path_factory.mktemp("models") / "tiny"))


def s2s(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def as_json(result: Result) -> dict[str, Any]:
    """The one object on standard output."""
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def error_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return str(result.stderr).removeprefix("s2s: error: ").strip()


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    wav: np.ndarray = 0.3 * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 300 / rate)
    return wav


def test_respond_writes_the_answer_on_the_recordings_timeline(model: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", tone(1.0), RATE)
    out = tmp_path / "out.wav"
    result = as_json(s2s("respond", tmp_path / "in.wav", out, "--model", model, "--tail", 0.4, "--seed", 3, "--json"))
    wav, rate = soundfile.read(out)
    assert rate == RATE
    # 25 frames of the recording, 10 of the tail, and one more since a step is heard during the next frame.
    assert len(wav) == 36 * SPEC.frame_size
    assert not wav[: SPEC.frame_size].any()
    assert result["duration_s"] == pytest.approx(36 * 0.04)
    assert result["rtf"] == pytest.approx(1 / result["rtfx"])
    assert result["step_ms"]["n"] == 35
    assert (result["model"], result["seed"], result["output"]) == (model, 3, str(out))
    assert {"caller_text", "agent_text", "first_audio_ms", "v2v_ms", "caller_words", "agent_words"} <= set(result)


def test_the_seed_decides_the_answer(model: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", tone(0.4), RATE)
    arguments = ("respond", tmp_path / "in.wav", tmp_path / "o.wav", "--model", model, "--tail", 0.2, "--json")
    settings = (["--seed", 1], ["--seed", 1], ["--seed", 2], ["--temperature", 0], ["--temperature", 0, "--seed", 9])
    texts = [as_json(s2s(*arguments, *more))["agent_text"] for more in settings]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert texts[3] == texts[4]


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "kind"),
    [(8000, 1, "ULAW", "WAV"), (8000, 2, "PCM_16", "WAV"), (11025, 1, "PCM_16", "FLAC"), (48000, 2, "FLOAT", "WAV")],
)
def test_any_rate_and_channels(model: str, tmp_path: Path, rate: int, channels: int, subtype: str, kind: str) -> None:
    wav = np.stack([tone(0.5, rate)] * channels, axis=1)
    soundfile.write(tmp_path / "in", wav, rate, subtype=subtype, format=kind)
    result = as_json(s2s("respond", tmp_path / "in", tmp_path / "o.wav", "--model", model, "--tail", 0, "--json"))
    assert result["duration_s"] == pytest.approx((13 + 1) * 0.04)


def test_the_channel_is_chosen(model: str, tmp_path: Path) -> None:
    wav = np.stack([np.zeros(RATE), tone(1.0)], axis=1)
    soundfile.write(tmp_path / "in.wav", wav, RATE)
    for channel, heard in (("left", False), ("right", True), ("1", True), ("mix", True), ("0", False)):
        out = tmp_path / f"{channel}.wav"
        s2s("respond", tmp_path / "in.wav", out, "--model", model, "--tail", 0, "--stereo", "--channel", channel)
        assert soundfile.read(out)[0][:, 0].any() == heard, channel
    for channel in ("2", "middle", "-1"):
        line = error_line(s2s("respond", tmp_path / "in.wav", out, "--model", model, "--channel", channel))
        assert "channel" in line


def test_a_stereo_answer_and_its_picture(model: str, tmp_path: Path) -> None:
    out, picture = tmp_path / "out.wav", tmp_path / "timeline.png"
    result = s2s("respond", CALLER, out, "--model", model, "--tail", 0.2, "--stereo", "--timeline", picture)
    assert result.exit_code == 0
    assert re.search(r"RTFx \d", result.stdout)
    assert soundfile.info(out).channels == 2
    assert picture.read_bytes()[:4] == b"\x89PNG"


def bad_input(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    if name == "empty.wav":
        path.write_bytes(b"")
    elif name == "no_samples.wav":
        soundfile.write(path, np.zeros(0), RATE)
    elif name == "nan.wav":
        soundfile.write(path, np.array([0.0, np.nan, 0.0]), RATE, subtype="FLOAT")
    elif name == "text.wav":
        path.write_text("this is no audio" * 50)
    elif name == "folder.wav":
        path.mkdir()
    elif name == "truncated.wav":
        soundfile.write(path, tone(1.0), RATE)
        path.write_bytes(path.read_bytes()[:1000])
    return path


@pytest.mark.parametrize(
    "name", ["missing.wav", "empty.wav", "no_samples.wav", "nan.wav", "text.wav", "folder.wav", "truncated.wav"]
)
@pytest.mark.parametrize("command", ["respond", "codec"])
def test_bad_recordings_are_one_line(model: str, tmp_path: Path, command: str, name: str) -> None:
    path = bad_input(tmp_path, name)
    line = error_line(s2s(command, path, tmp_path / "out.wav", "--model", model, "--json"))
    assert str(path) in line
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("command", ["respond", "codec"])
def test_unwritable_places_are_one_line(model: str, tmp_path: Path, command: str) -> None:
    for target in (tmp_path / "no" / "out.wav", tmp_path):
        line = error_line(s2s(command, CALLER, target, "--model", model))
        assert f"{target}: cannot write" in line


def test_unknown_models_and_settings_are_one_line(tmp_path: Path, model: str) -> None:
    out = tmp_path / "o.wav"
    assert "no checkpoint is called 'nope'" in error_line(s2s("respond", CALLER, out, "--model", "nope"))
    assert "temperature is -1" in error_line(s2s("respond", CALLER, out, "--model", model, "--temperature", -1))
    assert "tail is -1" in error_line(s2s("respond", CALLER, out, "--model", model, "--tail", -1))
    assert "threads is 0" in error_line(s2s("respond", CALLER, out, "--model", model, "--threads", 0))
    assert "speed is 'warp'" in error_line(s2s("respond", CALLER, out, "--model", model, "--speed", "warp"))
    (tmp_path / "config.json").write_text("{}")
    assert "format: missing key" in error_line(s2s("respond", CALLER, out, "--model", tmp_path))


def test_codec_sends_a_recording_through(model: str, tmp_path: Path) -> None:
    result = as_json(s2s("codec", CALLER, tmp_path / "out.wav", "--model", model, "--json"))
    wav, rate = soundfile.read(tmp_path / "out.wav")
    length, own = soundfile.info(CALLER).frames, soundfile.info(CALLER).samplerate
    assert rate == RATE and len(wav) == pytest.approx(length * RATE / own, abs=1)
    assert result["bits_per_second"] == SPEC.bits_per_second
    assert result["delay_ms"] == 10.0


def test_codec_describes_itself(model: str) -> None:
    result = as_json(s2s("codec", "--info", "--model", model, "--json"))
    assert result["bits_per_second"] == 25 * 4 * 5
    assert 0 < result["encode_macs_per_s"] < 1e9 and 0 < result["decode_macs_per_s"] < 1e9
    assert result["encode"]["rtfx_streaming"] > 0
    printed = s2s("codec", "--info", "--model", model).stdout
    assert "500 bit/s" in printed and "GMAC per second" in printed and "RTFx" in printed
    assert "give IN and OUT, or --info" in error_line(s2s("codec", "--model", model))
    assert "give OUT too" in error_line(s2s("codec", CALLER, "--info", "--model", model))


def test_bench_step(model: str) -> None:
    result = as_json(s2s("bench", "step", "--model", model, "--steps", 10, "--threads", 1, "--json"))
    assert set(result["parts_ms"]) == {"encode", "ring", "backbone", "text", "depth", "decode"}
    assert result["step_ms"]["n"] == 10
    assert result["rtfx"] == pytest.approx(40 / result["step_ms"]["p50"])
    sizes = result["bytes_per_step"]
    assert sizes["total"] == sizes["codec_weights"] + sizes["model_weights"] + sizes["keys_and_values"]
    assert result["bandwidth_share"] > 0
    assert result["threads_why"] == "asked for"
    assert "steps is 0" in error_line(s2s("bench", "step", "--model", model, "--steps", 0))


def test_bench_step_of_a_graph_chooses_threads(model: str) -> None:
    result = s2s("bench", "step", "--model", model, "--steps", 3, "--speed", "traced")
    assert result.exit_code == 0
    assert re.search(r"thread\(s\) \(p50 of 3 steps by threads: 1: .* ms, 2: .* ms\)", result.stdout)
    assert "GB/s measured in this run" in result.stdout


def test_a_device_is_the_cpu_or_a_gpu_that_is_there(model: str) -> None:
    assert "device is 'tpu', allowed are 'cpu' and 'cuda'" in error_line(s2s("bench", "step", "--device", "tpu"))
    if not torch.cuda.is_available():
        for command in (("bench", "step"), ("serve",)):
            assert "finds no GPU" in error_line(s2s(*command, "--model", model, "--device", "cuda"))
    result = as_json(s2s("bench", "step", "--model", model, "--steps", 2, "--threads", 1, "--device", "cpu", "--json"))
    assert result["device"] == "cpu"


def test_bench_latency_floor(model: str) -> None:
    result = as_json(s2s("bench", "latency-floor", "--model", model, "--json"))
    assert result["computed"] == {"frame_ms": 40.0, "delay_ms": 0.0, "codec_ms": 10.0, "total_ms": 50.0}
    assert result["agrees"]
    assert 40.0 <= result["confirmed"]["step_any_ms"] <= result["confirmed"]["step_audible_ms"] <= 50.0
    assert "confirmed" in s2s("bench", "latency-floor", "--model", model).stdout


def test_encode_makes_shards_and_goes_on(model: str, tmp_path: Path) -> None:
    words = [Word("hello", 0.1, 0.4)]
    dialogues = [Dialogue(f"d{i}", tone(0.8), tone(0.8), RATE, words, words) for i in range(3)]
    write_folder(dialogues, tmp_path / "in")
    arguments = ("encode", tmp_path / "in", tmp_path / "out", "--model", model, "--set", "rows_per_shard=2", "--json")
    result = as_json(s2s(*arguments))
    assert (result["rows"], result["shards"], result["bad_rows"]) == (3, 2, 0)
    assert result["audio_s"] == pytest.approx(2.4)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
    assert as_json(s2s(*arguments)) == result


def test_encode_mistakes_are_one_line(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "is not a folder" in error_line(s2s("encode", tmp_path / "no", out, "--model", model))
    assert "needs --columns" in error_line(s2s("encode", "x.parquet", out, "--model", model))
    assert "did you mean 'passes'" in error_line(s2s("encode", tmp_path, out, "--model", model, "--set", "pases=2"))
    assert "is not key=value" in error_line(s2s("encode", tmp_path, out, "--model", model, "--set", "passes"))


def test_export_joins_a_codec_and_a_model(model: str, tmp_path: Path) -> None:
    arguments = ("export", tmp_path / "x", "--codec", model, "--model", model, "--weight-format", "int8", "--top-k", 7)
    (tmp_path / "tokenizer.json").write_text(ByteTokenizer().to_json())
    result = as_json(s2s(*arguments, "--tokenizer", tmp_path / "tokenizer.json", "--json"))
    assert result["megabytes"] < 0.2
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["defaults"]["top_k"] == 7
    assert config["defaults"]["agent_lead_steps"] == AGENT_LEAD_STEPS
    older = tmp_path / "older"
    assert s2s("export", older, "--codec", model, "--model", model, "--agent-lead-steps", 2).exit_code == 0
    assert json.loads((older / "config.json").read_text())["defaults"]["agent_lead_steps"] == 2
    said = s2s("respond", CALLER, tmp_path / "o.wav", "--model", tmp_path / "x", "--tail", 0, "--speed", "exact")
    assert said.exit_code == 0
    assert s2s("export", tmp_path / "mean", "--codec", model, "--model", model, "--model", model).exit_code == 0
    one, mean = (load(folder).model for folder in (model, tmp_path / "mean"))
    assert one and mean
    assert all(torch.equal(value, mean.state_dict()[name]) for name, value in one.state_dict().items())
    assert "no such file" in error_line(s2s("export", tmp_path / "y", "--codec", tmp_path / "none.ckpt"))
    line = error_line(s2s("export", tmp_path / "y", "--codec", model, "--weight-format", "int4"))
    assert "'int4' is unknown" in line


def test_a_general_decoder_is_exported_and_used_unless_told_otherwise(model: str, tmp_path: Path) -> None:
    both, base = tmp_path / "both", tmp_path / "base"
    assert s2s("export", both, "--codec", model, "--general-decoder", model).exit_code == 0
    assert (both / "general_decoder.safetensors").is_file()
    for options, decoder in (((), "general"), (("--decoder", "own"), "own")):
        for command in (("codec",), ("evaluate", "codec")):
            out = (tmp_path / "out.wav",) if command == ("codec",) else ()
            assert as_json(s2s(*command, CALLER, *out, "--model", both, *options, "--json"))["decoder"] == decoder
    assert s2s("export", base, "--codec", both, "--decoder", "general").exit_code == 0
    assert not (base / "general_decoder.safetensors").exists()
    line = error_line(s2s("codec", CALLER, tmp_path / "out.wav", "--model", model, "--decoder", "general"))
    assert "has no general decoder" in line
    save(Bundle(SpectralCodec(tiny_codec().config)), base)
    line = error_line(s2s("export", tmp_path / "y", "--codec", model, "--general-decoder", base))
    assert "tokens of another codec" in line


def test_evaluate_codec(model: str) -> None:
    result = as_json(s2s("evaluate", "codec", CALLER, "--model", model, "--json"))
    assert result["n"] == 1 and result["bits_per_second"] == 500
    assert "words" not in result


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no cases"), ("{", "line 1 is not JSON"), ('{"audio": "x"}', "line 1 has no 'audio' and 'reply'")],
)
def test_evaluate_replies_mistakes_are_one_line(model: str, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cases.jsonl").write_text(text)
    assert message in error_line(s2s("evaluate", "replies", tmp_path / "cases.jsonl", "--model", model))


def test_an_exported_agent_may_write_its_phrases_alone(model: str, tmp_path: Path) -> None:
    book = tmp_path / "book.json"
    book.write_text(Phrases((Phrase("yes."), Phrase("no {n}.")), {"n": 2}).to_json())
    options = ("--codec", model, "--model", model, "--tokenizer", Path(model) / "tokenizer.json")
    assert s2s("export", tmp_path / "bound", *options, "--phrases", book).exit_code == 0
    phrase = r"(yes\. ?|no( \w+){2}\. ?)*(y|ye|yes|n|no.*)?"
    for flag in ("--phrases", "--no-phrases"):
        sampling = ("--tail", 0, "--speed", "exact", "--temperature", 1, "--top-k", 0, flag, "--json")
        said = as_json(s2s("respond", CALLER, tmp_path / "out.wav", "--model", tmp_path / "bound", *sampling))
        assert len(said["agent_text"]) > 20
        assert bool(re.fullmatch(phrase, said["agent_text"])) == (flag == "--phrases"), said["agent_text"]
    book.write_text("[]")
    assert error_line(s2s("export", tmp_path / "no", *options, "--phrases", book))


@pytest.mark.parametrize("command", ["respond", "codec", "encode", "export", "evaluate", "bench", "train"])
def test_every_command_has_help(command: str) -> None:
    result = s2s(command, "--help")
    assert result.exit_code == 0
    assert len(result.output) > 200


def test_the_entry_point_runs_and_help_needs_no_torch() -> None:
    program = """
import sys
import s2s.cli.main
assert 'torch' not in sys.modules
sys.argv[1:] = ['--version']
s2s.cli.main.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


def test_usage_mistakes_exit_with_2() -> None:
    assert s2s("respond").exit_code == 2
    assert s2s("respnod").exit_code == 2
