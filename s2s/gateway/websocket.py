"""A call's WebSocket: whole messages in, JSON out, with the limits on size, silence and slow readers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from s2s.gateway.limits import Limits

logger = logging.getLogger(__name__)

POLICY, TRY_AGAIN, INTERNAL, GOING_AWAY, NORMAL = 1008, 1013, 1011, 1001, 1000


class IdleError(TimeoutError):
    """The client has not said anything for too long."""


class Socket:
    """Wraps an accepted WebSocket."""

    def __init__(self, websocket: WebSocket, limits: Limits):
        self._websocket, self.limits = websocket, limits
        self.idle_s = limits.idle_s
        self._closed = False

    async def receive(self, timeout_s: float | None = None) -> str | bytes | None:
        """The next message, None when the client is gone. Raises IdleError after `timeout_s` (default: idle_s)."""
        timeout_s = self.idle_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._websocket.receive()
        except TimeoutError:
            raise IdleError(f"no message for {timeout_s:g} s") from None
        if message["type"] != "websocket.receive":
            self._closed = True
            return None
        text: str | None = message.get("text")
        return text if text is not None else message.get("bytes", b"")

    async def send(self, event: Mapping[str, Any]) -> None:
        """Raises ConnectionError when the client is gone, or does not take the message in time and so is cut."""
        if self._closed:
            raise ConnectionError("the connection is closed")
        try:
            async with asyncio.timeout(self.limits.slow_reader_s):
                await self._websocket.send_text(json.dumps(event, separators=(",", ":")))
        except TimeoutError:
            self.abort()
            raise ConnectionError(f"nothing was read for {self.limits.slow_reader_s:g} s") from None
        except (WebSocketDisconnect, RuntimeError) as error:
            self._closed = True
            raise ConnectionError("the client is gone") from error

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Begin the closing handshake; may be called again."""
        if self._closed or self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        self._closed = True
        try:
            async with asyncio.timeout(self.limits.slow_reader_s):
                await self._websocket.close(code, reason)
        except TimeoutError:
            self.abort()
        except (WebSocketDisconnect, RuntimeError):
            pass

    def abort(self) -> None:
        """Drop the connection and what is on its way: a closing handshake would wait behind it for ever."""
        self._closed = True
        abort = self._websocket.scope.get("s2s.abort")
        if abort is not None:
            abort()
