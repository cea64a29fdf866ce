"""`s2s serve` as a user runs it: a process, a port, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from s2s.cli.main import app
from tests.gateway.calls import encode

SECONDS = 60


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and where it serves."""
    program = [sys.executable, "-m", "s2s.cli.main", "serve", "--model", "echo", "--port", "0", "--threads", "1"]
    process = subprocess.Popen([*program, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://([\d.:]+)", line)
        assert found, line
        yield process, f"ws://{found[1]}"
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


async def refused_at_last(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """What the server says when the signal has arrived."""
    while True:
        try:
            async with connect(url, additional_headers=headers):
                await asyncio.sleep(0.1)
        except InvalidStatus as error:
            answer: dict[str, Any] = json.loads(error.response.body)
            return answer | {"status": error.response.status_code}


def test_a_call_outlives_the_first_signal_and_not_the_second(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("from a file\n")
    with command("--token-file", str(token), "--max-sessions", "2") as (process, url):

        async def run() -> None:
            headers = {"Authorization": "Bearer from a file"}
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{url}/v1/realtime")
            assert refused.value.response.status_code == 401
            async with connect(f"{url}/v1/live/sessions", additional_headers=headers) as call:
                await call.send(json.dumps({"type": "session.start", "session": {"model": "m"}}))
                started = json.loads(await call.recv())
                assert (started["type"], started["session"]["model"]) == ("session.started", "echo")
                process.send_signal(signal.SIGTERM)
                refusal = await refused_at_last(f"{url}/v1/realtime", headers)
                assert (refusal["status"], refusal["error"]["code"]) == (503, "server_draining")
                packet = encode(np.full(960, 1000, dtype="<i2").tobytes())
                await call.send(json.dumps({"type": "session.input_audio.append", "audio": packet}))
                assert json.loads(await call.recv())["type"] == "session.output_audio.delta"
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await call.recv()

        asyncio.run(asyncio.wait_for(run(), SECONDS))
        assert process.wait(SECONDS) == 0


def s2s(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["serve", "--model", "echo", *arguments])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--host", "0.0.0.0"), "can be reached from other machines"),
        (("--token", "a", "--token-file", "b"), "not both"),
        (("--token", ""), "the token is empty"),
        (("--token-file", "/nowhere/token"), "/nowhere/token"),
        (("--idle", "0"), "idle_s is 0"),
        (("--max-sessions", "0"), "max_sessions is 0"),
        (("--model", "nope"), "no checkpoint is called 'nope'"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], line: str) -> None:
    result = s2s(*arguments)
    assert result.exit_code == 2
    assert line in result.stderr and result.stderr.count("\n") == 1


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = s2s("--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "Address already in use" in result.stderr and result.stderr.count("\n") == 1
