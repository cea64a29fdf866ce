"""Refused clients and broken ones fill metrics, not the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from s2s.gateway.admission import Refusal
from s2s.gateway.limits import Limits
from s2s.gateway.quiet import QuietFilter, Seldom
from s2s.gateway.server import ServerConfig
from tests.gateway.serving import Served, serving
from tests.gateway.wire import Peer, frame

CROWD = 30
# Text that is not UTF-8, requests that are none, and upgrades to what we do not speak.
BROKEN = (b"BAD\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n")


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(config=ServerConfig(limits=Limits(max_connections=20)), max_sessions=1) as server:
        yield server


def count(served: Served, code: str) -> float:
    return served.gateway.metrics.registry.get_sample_value("s2s_calls_refused_total", {"code": code}) or 0.0


async def refused(url: str, **options: Any) -> None:
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        async with connect(url, **options) as call:
            await call.recv()


async def broken(port: int, request: bytes) -> None:
    peer = await Peer.connect(port)
    await peer.send(request)
    await peer.reader.read(100)
    peer.drop()


async def not_text(port: int) -> None:
    peer = await Peer.upgraded(port)
    await peer.send(frame(b"\xff\xfe"))
    await peer.read()


def test_a_crowd_is_a_line_of_each_kind(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")

    async def run() -> None:
        for _ in range(3):
            await not_text(served.port)  # each is the only call for its time
            while served.gateway.admission.num_calls:
                await asyncio.sleep(0.005)
        async with connect(f"{served.ws}/v1/realtime") as call:
            await call.recv()
            for path in ("/v1/realtime", "/v1/live/sessions"):
                for headers in ({}, {"Origin": served.http}, {"Origin": "https://evil.example"}):
                    for _ in range(CROWD // 6):
                        await refused(served.ws + path, additional_headers=headers)
            for request in BROKEN:
                for _ in range(3):
                    await broken(served.port, request)
            peers = [await Peer.connect(served.port) for _ in range(30)]
            while count(served, "too_many_connections") < 5:
                await asyncio.sleep(0.005)
            for peer in peers:
                peer.drop()

    asyncio.run(asyncio.wait_for(run(), 60))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) and len(lines) <= 6, "\n".join(lines)
    assert not [record for record in caplog.records if record.exc_info], "a peer's mistake is no error of ours"
    for code, expected in (("server_full", 2 * CROWD / 3), ("origin_not_allowed", CROWD / 3)):
        assert count(served, code) == expected
        assert sum(code in line for line in lines) == 1


def test_who_does_not_wait_for_a_refusal_is_no_error(served: Served) -> None:
    class Gone:
        headers = {"origin": "http://localhost"}  # noqa: RUF012
        scope: dict[str, Any] = {}  # noqa: RUF012

        async def accept(self, subprotocol: str | None) -> None: ...

        async def close(self, code: int, reason: str) -> None:
            raise WebSocketDisconnect(1006)

    gone: Any = Gone()
    asyncio.run(served.gateway.refuse(gone, Refusal(503, "server_full", "all sessions are taken")))
    assert count(served, "server_full") == 1


def test_a_line_stands_for_those_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("s2s.gateway.quiet.time.monotonic", lambda: now_s)
    seldom = Seldom(every_s=60)
    assert [seldom.due(kind) for kind in ("a", "a", "b", "a")] == [1, 0, 1, 0]
    now_s = 60.0
    assert [seldom.due(kind) for kind in ("a", "a", "b")] == [3, 0, 1]


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def record(error: Exception) -> logging.LogRecord:
        details = (type(error), error, None)
        return logging.LogRecord("peers", logging.ERROR, __file__, 1, "Exception in ASGI application\n", (), details)

    quiet = QuietFilter()
    first, same, other = record(ValueError("a")), record(ValueError("b")), record(KeyError("c"))
    assert [quiet.filter(each) for each in (first, same, other)] == [True, False, True]
    assert first.exc_info is not None and other.exc_info is not None
