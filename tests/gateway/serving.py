"""A real server on a loopback socket, in this process, for tests.

Its engine has a virtual clock unless a test is about time: steps are taken as the caller's audio comes, so a call is
the same on a fast and on a busy machine, and takes less than its own length.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import openai

from s2s.audio.io import read_audio
from s2s.audio.resample import resample
from s2s.engine.engine import Engine, EngineConfig
from s2s.engine.session import Session
from s2s.gateway.server import Gateway, ServerConfig
from s2s.gateway.serving import GatewayServer, create_server
from s2s.models.step import EchoStep, Step
from s2s.text import Tokenizer

RATE = 24000
PACKET = RATE // 25


@dataclass
class Served:
    server: GatewayServer
    engine: Engine
    port: int
    sessions: list[Session] = field(default_factory=list)

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

    def session(self, name: str) -> Session:
        """By the id that the client knows."""
        return next(session for session in self.sessions if name.endswith(session.id))


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until `condition()` holds; what it waits for comes in milliseconds on an idle machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


@contextlib.contextmanager
def serving(
    step: Step | None = None,
    config: ServerConfig | None = None,
    max_sessions: int = 4,
    tokenizer: Tokenizer | None = None,
    live: bool = False,
    tick_s: float = 0.001,
) -> Iterator[Served]:
    """Args: tick_s: between the ticks of a virtual clock; 0.04 is the pace of time, but held where input is late."""
    clock = "live" if live else "virtual"
    engine = Engine(step or EchoStep(), EngineConfig(max_sessions, clock, threads=1), tokenizer)
    over = threading.Event()

    def tick() -> None:
        while not over.wait(tick_s):
            engine.tick()

    if live:
        engine.start()
        engine.wait_until_warm()
    else:
        engine.warm_up()
        threading.Thread(target=tick, daemon=True).start()
    server = create_server(engine, config or ServerConfig(), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        served = Served(server, engine, server.address[1])
        _collect_sessions(served)
        yield served
    finally:
        over.set()
        server.should_exit = server.force_exit = True
        thread.join(10)
        engine.stop()
        assert not thread.is_alive()


def _collect_sessions(served: Served) -> None:
    open_session = served.gateway.open

    def open_and_note(opening: bool | None) -> Session:
        session = open_session(opening)
        served.sessions.append(session)
        return session

    served.gateway.open = open_and_note  # type: ignore[method-assign]


def speech(name: str = "refund") -> np.ndarray:
    """A caller's question, int16 at 24 kHz."""
    wav, rate = read_audio(f"s2s/assets/questions/{name}.wav")
    pcm: np.ndarray = np.rint(resample(wav[0], rate, RATE) * 32767).astype(np.int16)
    return pcm


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), dtype=np.int16)
