"""A client that does not keep the rules: bytes on a socket, no library between."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
from typing import Any

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(data: bytes, opcode: int = TEXT, final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """One WebSocket frame as a client sends it."""
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    mask = 0x80 if masked else 0
    if len(data) < 126:
        head += bytes([mask | len(data)])
    elif len(data) < 1 << 16:
        head += bytes([mask | 126]) + struct.pack("!H", len(data))
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", len(data))
    if not masked:
        return head + data
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def message(kind: str, **values: Any) -> bytes:
    return json.dumps({"type": kind, **values}).encode()


class Peer:
    """Reads frames and answers no ping."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self.events: list[dict[str, Any]] = []
        self.close_code: int | None = None

    @classmethod
    async def connect(cls, port: int, receive_buffer: int | None = None) -> Peer:
        """A bare connection."""
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=2048)
        return cls(reader, writer)

    @classmethod
    async def upgraded(cls, port: int, path: str = "/v1/realtime", receive_buffer: int | None = None) -> Peer:
        peer = await cls.connect(port, receive_buffer)
        key = base64.b64encode(os.urandom(16)).decode()
        peer.writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return peer

    async def send(self, data: bytes) -> bool:
        """False when the server has cut the connection."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            return False
        return True

    async def read(self) -> None:
        """Collect events until the server closes or cuts the connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, second = await self.reader.readexactly(2)
                length = second & 0x7F
                if length == 126:
                    (length,) = struct.unpack("!H", await self.reader.readexactly(2))
                elif length == 127:
                    (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
                data = await self.reader.readexactly(length)
                if first & 0x0F == TEXT:
                    self.events.append(json.loads(data))
                elif first & 0x0F == CLOSE:
                    self.close_code = struct.unpack("!H", data[:2])[0] if data else 1005

    @property
    def errors(self) -> list[str]:
        return [event["error"]["code"] for event in self.events if event["type"] == "error"]

    def drop(self) -> None:
        self.writer.transport.abort()
