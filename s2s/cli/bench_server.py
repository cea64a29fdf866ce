"""The server that a benchmark starts for itself: a process of its own, so that its work is not the client's.

    python -m s2s.cli.bench_server '{"model": "echo", "max_sessions": 4}'

It writes one line of JSON when it takes calls, and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2s.engine.engine import Engine, EngineConfig

ECHO, SCRIPTED = "echo", "scripted"
_STOP_S = 10.0
_PARENT_DIED = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


@dataclass(frozen=True)
class ServerOptions:
    """model: a name as for `s2s serve`, echo, or scripted: an answer of `answer_s`, `delay_s` after the last sound.

    The scripted answer never stops by itself when it is spoken over: what stops it is the server.
    """

    model: str
    max_sessions: int
    threads: int | None = None
    speed: str | None = None
    answer_s: float = 1.5
    delay_s: float = 0.2


@dataclass(frozen=True)
class RunningServer:
    """A server of ours: where it is, its process, and what it said about itself."""

    url: str
    pid: int
    facts: dict[str, Any]

    def cpu_s(self) -> float | None:
        """Processor seconds of the server so far; None where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def own_server(options: ServerOptions) -> Iterator[RunningServer]:
    """Start a server on a free port of this machine, and stop it in the end.

    Raises ValueError with the server's last words when it does not start.
    """
    command = [sys.executable, "-m", "s2s.cli.bench_server", json.dumps(asdict(options))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line:
            words = process.stderr.read().strip().splitlines() or ["it said nothing"]
            raise ValueError(f"the server did not start: {words[-1]}")
        facts = json.loads(line)
        yield RunningServer(f"ws://127.0.0.1:{facts.pop('port')}", process.pid, facts)
    finally:
        process.kill()
        process.wait(_STOP_S)
        process.stdout.close()
        process.stderr.close()


def main(argument: str) -> None:
    """Serve until the parent dies or kills us."""
    from s2s.engine.engine import EngineConfig
    from s2s.gateway.limits import Limits
    from s2s.gateway.server import ServerConfig
    from s2s.gateway.serving import create_server

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGKILL)
    options = ServerOptions(**json.loads(argument))
    engine, facts = build_engine(options, EngineConfig(options.max_sessions, threads=options.threads))
    limits = Limits(max_connections=4 * options.max_sessions + 1024)
    # The calls of a measurement begin with the caller, whom an opening would be in the way of.
    config = ServerConfig(options.model, limits=limits, opening=False)
    server = create_server(engine, config, "127.0.0.1", 0)

    def ready() -> None:
        told = {
            "port": server.address[1],
            "threads": engine.stats.threads,
            "buckets": engine.stats.buckets,
            "phases": engine.stats.phases,
        } | facts
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nobody reads it any more, and a full pipe would stop us

    server.on_ready = ready
    engine.start()
    try:
        server.run()
    finally:
        engine.stop()


def build_engine(options: ServerOptions, config: EngineConfig) -> tuple[Engine, dict[str, Any]]:
    """The engine of a model's name, and what is known about it: frame, weights, script."""
    from s2s.checkpoint import find, speed_named
    from s2s.cli.common import open_model
    from s2s.engine.engine import Engine
    from s2s.models.step import EchoStep

    facts: dict[str, Any] = {"model": options.model, "weights_sha256": None}
    if options.model == ECHO:
        engine = Engine(EchoStep(), config)
    elif options.model == SCRIPTED:
        engine = Engine(_scripted(options), config)
        facts["script"] = {"answer_s": options.answer_s, "delay_s": options.delay_s}
    else:
        engine = Engine.of(open_model(options.model), config, speed_named(options.speed) if options.speed else None)
        if options.model != "random":
            facts["weights_sha256"] = _weights_hash(find(options.model))
    return engine, facts | {"frame_ms": 1000 * engine.step_size / engine.sample_rate}


def _scripted(options: ServerOptions) -> Any:
    """A step that says one of the shipped recordings, over and over, for as long as the answer lasts."""
    import torch

    from s2s.evaluation.given_calls import SHIPPED, read_given_calls
    from s2s.models.scripted import Script, ScriptedStep

    recording = read_given_calls(SHIPPED, 24000)[-1]
    turn = recording.turns[0]
    speech = torch.from_numpy(recording.caller[turn.start : turn.end].copy())
    size = round(options.answer_s * recording.sample_rate)
    answer = speech.repeat(-(-size // len(speech)))[:size]
    return ScriptedStep(Script(answer, options.delay_s), sample_rate=recording.sample_rate)


def _weights_hash(folder: Path) -> str:
    """Of all weights of a checkpoint, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
