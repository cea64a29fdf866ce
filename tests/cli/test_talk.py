"""`s2s talk` and `s2s local`: a real server on loopback, a recording or a sound card that is none, a terminal."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from s2s.audio.io import read_audio, write_wav
from s2s.audio.pcm import int16_to_float
from s2s.cli.main import app
from s2s.cli.talk import Lines
from s2s.gateway.admission import Access
from s2s.gateway.bridge import BridgeConfig
from s2s.gateway.client import Received
from s2s.gateway.server import ServerConfig
from s2s.models.scripted import Script, ScriptedStep
from s2s.text import BpeTokenizer, ByteTokenizer
from tests.audio.test_card import Devices
from tests.engine.fakes import Greeter
from tests.gateway.serving import RATE, Served, serving, speech

SAID, HEARD = "your money comes back", "refund please"
ANSWER = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)


def s2s(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    tokenizer = ByteTokenizer()
    text = {"agent_text": tokenizer.encode(SAID), "user_text": tokenizer.encode(HEARD)}
    step = ScriptedStep(Script(torch.from_numpy(ANSWER), delay_s=0.3, text=text))
    with serving(step, ServerConfig(model="scripted", access=Access("secret")), 1, tokenizer, live=True) as server:
        yield server


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    write_wav(path, int16_to_float(speech()[: round(0.9 * RATE)]), RATE)
    return path


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("secret\n")
    return path


def test_a_recording_is_answered(served: Served, question: Path, token: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    result = s2s("talk", "--url", served.http, "--token-file", token, "--file", question, "--out", out, "--quiet", 2)
    assert result.exit_code == 0, result.stderr
    words = [re.sub(r"^ *[0-9.]+ s  ", "", line) for line in result.stdout.splitlines()]
    assert sorted(words) == [f"agent   {SAID}", f"caller  {HEARD}"]
    assert "ms after the last sound" in result.stderr and f"wrote {out}" in result.stderr.replace("\n", "")
    wav, rate = read_audio(out)
    asked, _ = read_audio(question)
    assert rate == RATE and len(wav) == 2
    assert np.array_equal(wav[0, : asked.shape[1]], asked[0]), "the caller, on the caller's clock"
    audible = np.flatnonzero(np.abs(wav[1]) > 0.1)
    assert audible[0] / RATE > 0.9 + 0.2, "the answer, after the question, when it was heard"
    spectrum = np.abs(np.fft.rfft(wav[1, audible[0] : audible[-1]]))
    assert 435 < spectrum.argmax() * RATE / (audible[-1] - audible[0]) < 445


def test_a_server_that_needs_a_token(served: Served, question: Path) -> None:
    result = s2s("talk", "--url", served.ws, "--file", question)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr == "s2s: error: the token is missing or wrong (invalid_api_key)\n"


def test_a_server_that_is_full(served: Served, question: Path, token: Path) -> None:
    session = served.engine.open()
    try:
        result = s2s("talk", "--url", served.ws, "--token-file", token, "--file", question)
    finally:
        session.close()
    assert result.exit_code == 2
    assert "all sessions are taken" in result.stderr and "(server_full)" in result.stderr


def test_no_server(question: Path) -> None:
    result = s2s("talk", "--url", "ws://127.0.0.1:1", "--file", question)
    assert result.exit_code == 2 and result.stderr.startswith("s2s: error: cannot reach ws://127.0.0.1:1/")


def test_a_server_that_ends_the_call(question: Path) -> None:
    with serving(config=ServerConfig(model="echo", bridge=BridgeConfig(max_call_s=0.5)), live=True) as server:
        result = s2s("talk", "--url", server.ws, "--file", question)
    assert result.exit_code == 2
    assert result.stderr.endswith("s2s: error: the server ended the call: expired\n")


def test_an_agent_that_hangs_up_ends_the_call(question: Path, tmp_path: Path) -> None:
    tokenizer, out = BpeTokenizer.train(["bye"], 257, ("hangup",)), tmp_path / "out.wav"
    text = {"agent_text": [*tokenizer.encode("bye"), tokenizer.actions["hangup"]]}
    step = ScriptedStep(Script(torch.from_numpy(ANSWER[: RATE // 2]), delay_s=0.3, text=text))
    config = ServerConfig(bridge=BridgeConfig(hang_up=True))
    with serving(step, config, 1, tokenizer, live=True) as server:
        result = s2s("talk", "--url", server.ws, "--file", question, "--out", out, "--quiet", 20)
    assert result.exit_code == 0, result.stderr
    assert "action: hangup" in result.stderr and result.stdout.endswith("agent   bye\n")
    wav, rate = read_audio(out)
    assert wav.shape[1] / rate < 5 and np.abs(wav[1]).max() > 0.2


@pytest.mark.parametrize("wait", [True, False])
def test_who_speaks_first_is_chosen(question: Path, tmp_path: Path, wait: bool) -> None:
    out = tmp_path / "out.wav"
    with serving(Greeter(greeting=5, step_size=960, sample_rate=RATE), max_sessions=1, live=True) as server:
        options = ["--wait"] if wait else []
        result = s2s("talk", "--url", server.ws, "--file", question, "--out", out, "--quiet", 0.5, *options)
    assert result.exit_code == 0, result.stderr
    greeting = np.abs(read_audio(out)[0][1] - 0.5) < 0.01
    assert (greeting.sum() > 3 * 960) is not wait


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--file", "missing.wav"], "missing.wav"),
        (["--url", "ftp://host"], "no address of a server"),
        (["--quiet", "0"], "quiet_s is 0"),
        (["--out", "missing/out.wav"], "the directory missing does not exist"),
        (["--token", ""], "the token is empty"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    result = s2s("talk", *arguments)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and message in result.stderr


def test_lines_of_two_who_speak_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()

    def show(at_s: float, kind: str, **values: object) -> None:
        lines.show(Received(at_s, {"type": kind, **values}), at_s)

    agent, caller, sound = (
        "session.output_transcript.delta",
        "session.input_transcript.delta",
        "session.output_audio.delta",
    )
    show(1.0, agent, delta=" your money")
    show(1.1, caller, delta=" wait")
    show(1.2, agent, delta=" comes")
    show(1.3, caller, delta=" please")
    show(1.4, sound)
    assert capsys.readouterr().out == "   1.0 s  agent   your money comes", "as it comes"
    show(1.5, "s2s.answer_ended", reason="turn_detected", played_ms=500)
    show(3.0, sound)
    show(9.0, agent, delta=" sorry")
    lines.end()
    assert capsys.readouterr().out == " -- (interrupted)\n   1.1 s  caller  wait please\n   9.0 s  agent   sorry\n"


def test_local_with_a_recording(question: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    result = s2s("local", "--model", "echo", "--file", question, "--out", out, "--quiet", 1)
    assert result.exit_code == 0, result.stderr
    assert "serving echo on http://127.0.0.1:" in result.stderr
    wav, _ = read_audio(out)
    assert np.abs(wav[1]).max() > 0.5 * np.abs(wav[0]).max(), "the echo"


def test_local_with_a_sound_card_until_ctrl_c(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    devices, out = Devices(), tmp_path / "out.wav"
    monkeypatch.setitem(sys.modules, "sounddevice", devices)

    def interrupt_once_heard() -> None:
        while not over.wait(0.1):
            if any((block == 7).all() for block in devices.played[-5:]):
                os.kill(os.getpid(), signal.SIGINT)
                return

    over = threading.Event()
    threading.Timer(60, over.set).start()
    threading.Thread(target=interrupt_once_heard, daemon=True).start()
    result = s2s("local", "--model", "echo", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "Ctrl-C hangs up" in result.stderr
    wav, _ = read_audio(out)
    assert (np.rint(wav[0] * 32768) == 7).all(), "the microphone"
    assert (np.rint(wav[1] * 32768) == 7).any(), "its echo"


def test_no_sound_card(served: Served, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Devices(works=False))
    result = s2s("talk", "--url", served.ws, "--token-file", token)
    assert result.exit_code == 2
    assert "cannot open microphone and loudspeaker" in result.stderr and "--file" in result.stderr
