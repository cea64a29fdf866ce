"""Clients that do not keep the rules, all at once: each is cut or told, and a neighbour hears no difference.

The engine has the pace of time, but waits where a busy machine is late, so that the neighbour's echo is exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from s2s.gateway.bridge import BridgeConfig
from s2s.gateway.limits import Limits
from s2s.gateway.server import ServerConfig
from tests.gateway.calls import Call, encode, live, raw, speak_live
from tests.gateway.serving import RATE, Served, serving, wait_for
from tests.gateway.wire import PING, Peer, frame, message

LIMITS = Limits(
    request_s=1.0, start_s=1.0, idle_s=2.0, ping_s=1.0, slow_reader_s=1.0, max_connections=40, max_history=4096
)
STORM = 60


def audio(seconds: float) -> str:
    return encode(np.ones(round(seconds * RATE), dtype="<i2").tobytes())


async def until_closed(socket: ClientConnection) -> list[dict[str, Any]]:
    """What comes until the server closes the connection, whatever it says then."""
    events = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            events.append(json.loads(await socket.recv()))
    return events


async def slow_request(served: Served) -> Any:
    """Slow loris: a header that never ends."""
    peer = await Peer.connect(served.port)
    reading = asyncio.create_task(peer.reader.read())
    await peer.send(b"GET /livez HTTP/1.1\r\n")
    while not reading.done() and await peer.send(b"X-Slow: 1\r\n"):
        await asyncio.sleep(0.1)
    with contextlib.suppress(ConnectionError):  # what was not read may make the system drop the answer
        assert (await reading)[:12] in (b"", b"HTTP/1.1 408")
    return "cut"


async def half_open(served: Served) -> Any:
    """A connection that never asks for anything."""
    peer = await Peer.connect(served.port)
    return (await peer.reader.read())[:12]


async def slow_frame(served: Served) -> Any:
    """Slow loris behind the handshake: a frame that comes byte by byte."""
    peer = await Peer.upgraded(served.port, "/v1/live/sessions")
    reading = asyncio.create_task(peer.read())
    data = frame(message("session.start", session={"model": "m" * 200}))
    for byte in data:
        if reading.done() or not await peer.send(bytes([byte])):
            break
        await asyncio.sleep(0.05)
    await reading
    return peer.errors, peer.close_code


async def no_pong(served: Served) -> Any:
    """Sends audio and answers no ping: the other side is a machine that hangs."""
    peer = await Peer.upgraded(served.port)
    reading = asyncio.create_task(peer.read())
    while not reading.done():
        await peer.send(frame(message("input_audio_buffer.append", audio=audio(0.2))))
        await asyncio.sleep(0.2)
    return peer.close_code


async def silence(served: Served) -> Any:
    """Answers pings and says nothing."""
    async with connect(f"{served.ws}/v1/realtime") as socket:
        events = await until_closed(socket)
        return [event["error"]["code"] for event in events[1:]], socket.close_code


async def flood(served: Served) -> Any:
    """Audio far faster than time."""
    async with connect(f"{served.ws}/v1/realtime") as socket:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(40):
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio(2.0)}))
        events = await until_closed(socket)
        codes = {event["error"]["code"] for event in events if event["type"] == "error"}
        # What was not read in time may make the system drop the reason.
        return codes <= {"input_audio_buffer_full", "input_flood"} and socket.close_code in (1008, 1006)


async def slow_reader(served: Served) -> Any:
    """Talks and never reads the answer, until it is cut: nobody can send it a reason."""
    peer = await Peer.upgraded(served.port, "/v1/live/sessions", receive_buffer=4096)
    await peer.send(frame(message("session.start", session={"model": "m"})))
    text = frame(message("session.thinking.append", content="x" * 4000))
    append = frame(message("session.input_audio.append", audio=audio(0.1)))
    for _ in range(400):
        if not await peer.send(append + text * 20):
            return "cut"
        await asyncio.sleep(0.02)
    return "still there"


async def oversize(served: Served) -> Any:
    """A message beyond every limit."""
    async with connect(f"{served.ws}/v1/realtime") as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "A" * (300 << 10)}))
        await until_closed(socket)
        return socket.close_code in (1009, 1006)  # what was not read may make the system drop the reason


async def malformed(served: Served) -> Any:
    """Frames that are none."""
    found = []
    for data in (
        frame(b"{}", masked=False),
        frame(b"{}", reserved=4),
        frame(b"{}", opcode=3),
        frame(b"x" * 200, opcode=PING),
        frame(b"\xff\xfe"),
    ):
        peer = await Peer.upgraded(served.port)
        await peer.send(data)
        await peer.read()
        found.append(peer.close_code)
        peer.drop()
    return found


async def nonsense(served: Served) -> Any:
    """Messages that are none: told, and the socket stays open."""
    messages: list[str | bytes] = [
        "{",
        b"\x00\x01",
        "[]",
        '{"type": "nonsense"}',
        '{"type": "input_audio_buffer.append", "audio": 5}',
        '{"type": "input_audio_buffer.append", "audio": "!"}',
        '{"type": "input_audio_buffer.append", "audio": "AAAA"}',
        '{"type": "session.update", "session": []}',
        json.dumps({"type": "conversation.item.delete", "item_id": "x" * (70 << 10)}),
        json.dumps({"type": "response.cancel", "response_id": "\ud800"}),
    ]
    async with connect(f"{served.ws}/v1/realtime") as socket:
        for each in messages:
            await socket.send(each)
        await socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        codes = []
        async for text in socket:
            event = json.loads(text)
            if event["type"] == "error":
                codes.append(event["error"]["code"])
            if event["type"] == "input_audio_buffer.cleared":
                break
        return codes


async def hoarder(served: Served) -> Any:
    """Items without end: the oldest go."""
    async with connect(f"{served.ws}/v1/realtime") as socket:
        text = {"type": "input_text", "text": "x" * 1000}
        for number in range(30):
            item = {"id": str(number), "type": "message", "role": "user", "content": [text]}
            await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        await socket.send(json.dumps({"type": "conversation.item.retrieve", "item_id": "0"}))
        async for event in socket:
            if json.loads(event)["type"] == "error":
                return json.loads(event)["error"]["code"]
    return None


async def deserter(served: Served) -> Any:
    """Leaves without a word, in the middle of a frame and in the middle of a call."""
    for cut in (10, None):
        peer = await Peer.upgraded(served.port)
        await peer.send(frame(message("input_audio_buffer.append", audio=audio(0.2)))[:cut])
        peer.drop()
    return "gone"


async def storm(served: Served) -> Any:
    """More connections than are allowed, at once: each is served or told, none hangs."""

    async def one() -> str:
        try:
            async with connect(f"{served.ws}/v1/realtime", open_timeout=20) as socket:
                await socket.recv()
                return "call"
        except InvalidStatus as error:
            return str(error.response.status_code)
        except (InvalidMessage, ConnectionError):
            return "closed"  # refused before its request was read

    return sorted(set(await asyncio.gather(*(one() for _ in range(STORM)))))


HOSTILE: list[Callable[[Served], Awaitable[Any]]] = [
    slow_request,
    half_open,
    slow_frame,
    no_pong,
    silence,
    flood,
    slow_reader,
    oversize,
    malformed,
    nonsense,
    hoarder,
    deserter,
]


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    """What became of each, and of the neighbour."""
    # Quieter than any voice: an agent that says it is no agent who could be interrupted.
    spoken = np.random.default_rng(0).integers(-40, 41, 40 * 960).astype(np.int16)
    over, rounds = threading.Event(), list[int]()
    config = ServerConfig(limits=LIMITS, bridge=BridgeConfig(flood_s=30.0))

    async def talk(connection: Any, call: Call) -> None:
        async def append(audio: str) -> None:
            await connection.session.input_audio.append(audio=audio)

        while not over.is_set():
            rounds.append(len(spoken) // 960)
            await speak_live(append, raw(spoken))
            await call.until("session.output_audio.delta", sum(rounds), seconds=30)
        await connection.session.close()
        await call.until("session.closed")

    async def run(served: Served) -> dict[str, Any]:
        async with asyncio.timeout(50):
            neighbour = asyncio.create_task(live(served, talk, {"model": "m"}))
            found = dict(zip(HOSTILE, await asyncio.gather(*(client(served) for client in HOSTILE))))
            found[storm] = await storm(served)
            over.set()
            return {client.__name__: each for client, each in found.items()} | {"neighbour": await neighbour}

    with serving(config=config, max_sessions=16, tick_s=0.04) as served:
        found = asyncio.run(run(served))
        wait_for(lambda: served.gateway.admission.num_calls == 0)
        wait_for(lambda: served.engine.stats.sessions == 0)
        wait_for(lambda: len(served.server.server_state.connections) == 0)
        assert served.engine.stats.failures == 0
    found["spoken"] = np.tile(spoken, len(rounds))
    return found


def test_the_neighbour_hears_every_sample(outcome: dict[str, Any]) -> None:
    call, spoken = outcome["neighbour"], outcome["spoken"]
    assert call.closed in (None, (1000, "")) and not call.of("error")
    assert np.array_equal(call.pcm("session.output_audio.delta"), spoken)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("slow_request", "cut"),
        ("half_open", b"HTTP/1.1 408"),
        ("slow_frame", (["session_not_started"], 1008)),
        ("no_pong", 1011),
        ("silence", (["idle_timeout"], 1008)),
        ("flood", True),
        ("slow_reader", "cut"),
        ("oversize", True),
        ("malformed", [1002, 1002, 1002, 1002, 1007]),
        (
            "nonsense",
            [
                "invalid_json",
                "invalid_json",
                "invalid_value",
                "unknown_event",
                "invalid_value",
                "invalid_base64",
                "invalid_audio",
                "invalid_value",
                "message_too_large",
                "invalid_json",
            ],
        ),
        ("hoarder", "item_not_found"),
        ("deserter", "gone"),
    ],
)
def test_each_is_cut_or_told(outcome: dict[str, Any], name: str, expected: Any) -> None:
    assert outcome[name] == expected


def test_a_storm_is_answered(outcome: dict[str, Any]) -> None:
    assert set(outcome["storm"]) <= {"call", "503", "closed"}
    assert "503" in outcome["storm"]
