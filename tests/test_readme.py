"""The README's section "Serve" as a reader follows it: every block is run as it stands, on a real server."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from s2s.cli.main import app
from s2s.gateway.server import ServerConfig
from s2s.models.scripted import Script, ScriptedStep
from tests.gateway.serving import RATE, Served, serving, silence, speech

ROOT = Path(__file__).parents[1]
SECTION = re.search(r"^## Serve\n(.*?)^## ", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
assert SECTION is not None
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION[1], re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:8080"
ANSWER_S = 0.4
ANSWER = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(ANSWER_S * RATE)) / RATE).astype(np.float32)
# A question, and time for the answer and for the pause that ends it.
CALLER = np.concatenate([silence(0.2), speech()[: round(0.6 * RATE)], silence(2.0)])


def programs() -> list[tuple[str, str]]:
    """The Python blocks and their names, which the first line of each says."""
    return [(code.splitlines()[0], code) for kind, code in BLOCKS if kind == "python"]


def commands() -> list[str]:
    """Every command of the shell blocks."""
    lines = [line.partition(" #")[0] for kind, code in BLOCKS if kind == "bash" for line in code.splitlines()]
    return [command.strip() for line in lines for command in line.split("&&")]


CALLERS = [code for first, code in programs() if first.startswith("# caller.py")]
CLIENTS = [(first, code) for first, code in programs() if not first.startswith("# caller.py")]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    step = ScriptedStep(Script(torch.from_numpy(ANSWER), delay_s=0.4))
    with serving(step, ServerConfig(model="scripted"), max_sessions=2) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader works: in.wav and caller.py are there."""
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(CALLER.tobytes())
    for code in CALLERS:
        (tmp_path / "caller.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "caller", raising=False)
    return tmp_path


def audible_s(pcm: np.ndarray) -> float:
    """How long the tone of the answer sounds."""
    frames = pcm[: len(pcm) // 240 * 240].reshape(-1, 240).astype(np.float32)
    return float((np.sqrt((frames**2).mean(1)) > 1000).sum() * 240 / RATE)


def test_there_are_clients_of_every_kind() -> None:
    assert len(CALLERS) == 1
    text = "".join(code for _, code in CLIENTS)
    for part in ("client.realtime.connect", "client.live.connect", "websockets"):
        assert part in text
    for command in ("s2s serve", "s2s talk", "s2s local", "curl", "pip install"):
        assert any(each.startswith(command) for each in commands())


@pytest.mark.parametrize("first, code", CLIENTS, ids=[first for first, _ in CLIENTS])  # noqa: PT006
def test_a_client_brings_the_answer_back(served: Served, folder: Path, first: str, code: str) -> None:
    assert ADDRESS in code
    program = folder / "client.py"
    program.write_text(code.replace(ADDRESS, f"127.0.0.1:{served.port}"))
    runpy.run_path(str(program), run_name="__main__")
    (out,) = folder.glob("*.pcm")
    assert audible_s(np.frombuffer(out.read_bytes(), dtype="<i2")) == pytest.approx(ANSWER_S, abs=0.1)


def test_the_programs_share_no_name() -> None:
    """Run one after the other in the same folder, none overwrites what another has kept."""
    written = [name for _, code in CLIENTS for name in re.findall(r'open\("([\w.]+)", "wb"\)', code)]
    assert len(written) == len(CLIENTS) == len(set(written))


@pytest.mark.parametrize("command", commands())
def test_a_command_works(served: Served, folder: Path, command: str) -> None:
    words = shlex.split(command)
    if words[:2] == ["s2s", "talk"]:
        more = ["--url", served.ws, "--quiet", "0.5"]
        result = CliRunner().invoke(app, [*words[1:], *more])
        assert result.exit_code == 0, result.output
        with wave.open("out.wav") as file:
            assert file.getnchannels() == 2
            voices = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, 2)
        assert audible_s(voices[:, 1]) == pytest.approx(ANSWER_S, abs=0.15), "caller left, agent right"
    elif words[0] == "s2s":
        s2s = typer.main.get_command(app)
        assert isinstance(s2s, typer.core.TyperGroup)
        s2s.commands[words[1]].make_context(words[1], words[2:])  # starting it is the matter of other tests
    elif words[0] == "curl":
        if shutil.which("curl") is None:
            pytest.skip("no curl here")
        address = words[1].replace(ADDRESS, f"127.0.0.1:{served.port}")
        told = subprocess.run(["curl", "-sS", "--fail", "--noproxy", "*", address], capture_output=True, check=True)
        if address.endswith("/readyz"):
            assert json.loads(told.stdout)["ready"] is True
        else:
            assert re.search(rb"^s2s_sessions \d", told.stdout, re.MULTILINE)
    else:
        assert words[:3] == ["pip", "install", "-e"]
        extra = re.fullmatch(r"\.\[(\w+)\]", words[3])
        assert extra is not None
        assert extra[1] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
