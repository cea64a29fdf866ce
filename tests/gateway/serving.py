"""A real server on a loopback socket, in this process, for tests; and what its clients say."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import openai

from s2s.audio.io import read_audio
from s2s.audio.resample import resample
from s2s.cli.common import DEFAULT_MODEL  # noqa: F401  keeps the name of the shipped model in one place
from s2s.engine.engine import Engine, EngineConfig
from s2s.gateway.server import Gateway, ServerConfig
from s2s.gateway.serving import GatewayServer, create_server
from s2s.models.step import EchoStep, Step
from s2s.text import Tokenizer

RATE = 24000
PACKET = RATE // 50


@dataclass
class Served:
    server: GatewayServer
    engine: Engine
    port: int

    @property
    def gateway(self) -> Gateway:
        return self.server.gateway

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def client(self, token: str = "none") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.http}/v1", api_key=token, max_retries=0)


def wait_for(condition: object, seconds: float = 10.0) -> None:
    """Wait until `condition()` holds; what it waits for comes in milliseconds on an idle machine."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(
    step: Step | None = None,
    config: ServerConfig | None = None,
    max_sessions: int = 4,
    tokenizer: Tokenizer | None = None,
) -> Iterator[Served]:
    engine = Engine(step or EchoStep(), EngineConfig(max_sessions, threads=1), tokenizer)
    engine.start()
    engine.wait_until_warm()
    server = create_server(engine, config or ServerConfig(), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Served(server, engine, server.address[1])
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        engine.stop()
        assert not thread.is_alive()


def speech(name: str = "refund") -> np.ndarray:
    """A caller's question, int16 at 24 kHz."""
    wav, rate = read_audio(f"s2s/assets/questions/{name}.wav")
    pcm: np.ndarray = np.rint(resample(wav[0], rate, RATE) * 32767).astype(np.int16)
    return pcm


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), dtype=np.int16)


def packets(*parts: np.ndarray) -> Iterator[np.ndarray]:
    """20 ms packets of what is said."""
    pcm = np.concatenate(parts)
    for start in range(0, len(pcm), PACKET):
        yield pcm[start : start + PACKET]
