"""Running the server until a signal: the first lets running calls finish, the second stops."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from s2s.engine.engine import Engine
from s2s.gateway import voice
from s2s.gateway.admission import is_loopback
from s2s.gateway.protocols import LimitedConfig
from s2s.gateway.server import Gateway, ServerConfig, create_app

logger = logging.getLogger(__name__)


SWITCH_S = 0.1e-3
"""How long the engine's thread and that of the sockets leave each other waiting for the interpreter: a step comes back
to it between its kernels, two dozen times, and with Python's own 5 ms could wait for longer than it takes."""


def check_exposure(host: str, token: str | None, insecure: bool) -> None:
    """Raises ValueError where anybody on the network could call."""
    if not is_loopback(host) and token is None and not insecure:
        raise ValueError(
            f"--host {host} can be reached from other machines: give --token-file (or --token), "
            "or --insecure if something else keeps strangers out"
        )


class GatewayServer(uvicorn.Server):
    """A uvicorn server that drains. `run` blocks; in another thread than the main one it takes no signals."""

    def __init__(self, gateway: Gateway, app: object, host: str, port: int):
        """Raises OSError where the address cannot be had."""
        limits = gateway.config.limits
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host.strip("[]"), port), family=family, backlog=limits.max_connections)
        self._socket_name = self._socket.getsockname()
        super().__init__(
            LimitedConfig(
                app,
                limits,
                gateway.note_refusal,
                host=host,
                port=port,
                timeout_graceful_shutdown=2,
                backlog=limits.max_connections,
            )
        )
        self.gateway = gateway
        self.on_ready: Callable[[], None] | None = None  # called once, when calls are taken
        self.failure = ""
        self._drain_until_s: float | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._socket_name[:2]
        return host, port

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        sys.setswitchinterval(SWITCH_S)
        await super().serve(sockets or [self._socket])

    def drain(self) -> None:
        """Take no new calls, and stop when the running ones are over or their time is up."""
        self.gateway.admission.draining = True
        self._drain_until_s = time.monotonic() + self.gateway.config.limits.drain_s
        logger.info("draining: %d calls", self.gateway.admission.num_calls)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_until_s is None:
            self.drain()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._drain_until_s is not None and not self.should_exit:
            over = self.gateway.admission.num_calls == 0 or time.monotonic() >= self._drain_until_s
            self.should_exit = over
        stats = self.gateway.engine.stats
        if self.gateway.engine.config.clock == "live" and not (stats.running or self.should_exit):
            self.failure, self.should_exit = "the engine has stopped", True
        elif stats.warm and self.on_ready is not None:
            on_ready, self.on_ready = self.on_ready, None
            on_ready()
        return await super().on_tick(counter)


def create_server(engine: Engine, config: ServerConfig, host: str, port: int) -> GatewayServer:
    """A server that listens and runs when told to; port 0 is any free one."""
    voice.load()  # the first call need not wait for it
    app = create_app(engine, config)
    return GatewayServer(app.state.gateway, app, host, port)
