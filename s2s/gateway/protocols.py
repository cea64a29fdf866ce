"""uvicorn's connections with what it leaves open: deadlines for requests, bounded buffers, a way to cut a dead peer."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from s2s.gateway.admission import RETRY_AFTER_S
from s2s.gateway.limits import Limits
from s2s.gateway.quiet import QuietFilter

# What uvicorn and websockets say of single connections, which is one line per connection that a stranger may repeat.
# Below the logger that uvicorn's messages for operators keep, so that it is shown in the same place.
_peers = logging.getLogger("uvicorn.error.peers")
_peers.setLevel(logging.WARNING)  # debug lines hold whole headers, tokens too
_peers.addFilter(QuietFilter())

_WRITE_BUFFER = 64 << 10  # bytes that may wait in this process, and about as many in the kernel: 2 s of audio
_CLOSE_S = 2.0  # for a peer to answer a close frame
_MAX_HEADERS = 16 << 10


class LimitedConfig(uvicorn.Config):
    """A server's configuration that its connections find their limits in."""

    def __init__(self, app: Any, limits: Limits, refused: Callable[[str], None], **options: Any):
        """Args: refused: told the reason of every connection that is refused before there is a request."""
        super().__init__(
            app,
            http=RequestProtocol,
            ws=CallProtocol,
            ws_max_size=limits.max_audio_message,
            ws_ping_interval=limits.ping_s,
            ws_ping_timeout=limits.ping_s,
            ws_per_message_deflate=False,
            h11_max_incomplete_event_size=_MAX_HEADERS,
            access_log=False,
            log_config=None,
            log_level="warning",  # its debug lines hold whole headers, tokens too
            server_header=False,
            date_header=False,
            lifespan="off",
            **options,
        )
        self.limits, self.refused = limits, refused


class RequestProtocol(H11Protocol):
    """HTTP: a request that does not come whole in time is cut, connections beyond the limit are refused at once."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.logger = _peers
        super().connection_made(transport)
        assert isinstance(self.config, LimitedConfig)
        limits = self.config.limits
        if len(self.connections) > limits.max_connections:
            body = json.dumps({"error": {"type": "server_error", "code": "too_many_connections", "message": "busy"}})
            head = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\n"
            head += f"Retry-After: {RETRY_AFTER_S}\r\nContent-Length: {len(body)}\r\n\r\n"
            transport.write((head + body).encode("ascii"))
            transport.close()
            self.config.refused("too_many_connections")
            return
        self._deadline = self.loop.call_later(limits.request_s, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None:
            self._cancel_deadline()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._cancel_deadline()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()


class CallProtocol(WebSocketsSansIOProtocol):
    """WebSocket: little is buffered for a client that does not read, and it can be dropped without a handshake."""

    def connection_made(self, transport: Any) -> None:
        self.logger = self.conn.logger = _peers
        super().connection_made(transport)
        self.close_timeout = _CLOSE_S
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WRITE_BUFFER)
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run_asgi(self) -> None:
        self.scope["s2s.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        await super().run_asgi()

    async def send(self, message: Any) -> None:
        """A refusal by HTTP completes the handshake too, which uvicorn else reports as an error of ours."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def keepalive_timeout(self) -> None:
        """A peer that answers no ping reads no close frame either: the socket is dropped after it is sent."""
        super().keepalive_timeout()
        self.loop.call_later(_CLOSE_S, self.transport.abort)
