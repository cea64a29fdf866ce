"""Calls by the official client at real-time pace. Every event is checked against the client's own types."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from openai.types.beta.realtime import RealtimeServerEvent as BetaEvent
from openai.types.live import ServerEvent as LiveEvent
from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel
from websockets.exceptions import ConnectionClosed

from tests.gateway.serving import PACKET, RATE, Served

EXTENSIONS = ("s2s.",)


def _by_type(union: Any) -> dict[str, type[BaseModel]]:
    """The client's class of each event."""
    members = get_args(get_args(union)[0])
    return {get_args(member.model_fields["type"].annotation)[0]: member for member in members}


CHECKS = {"ga": _by_type(RealtimeServerEvent), "beta": _by_type(BetaEvent), "live": _by_type(LiveEvent)}


def check(kind: str, event: dict[str, Any]) -> None:
    """Raise unless the event is one that the client's types describe."""
    if event["type"].startswith(EXTENSIONS):
        return
    if kind == "beta" and "session" in event:  # there the model is one of eight names, and ours is none of them
        event = event | {"session": event["session"] | {"model": None}}
    CHECKS[kind][event["type"]].model_validate(event)


@dataclass
class Call:
    """What came back."""

    kind: str
    events: list[dict[str, Any]] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    sent_s: float = 0.0
    session_id: str = ""

    def add(self, values: dict[str, Any]) -> None:
        if len(self.of(values["type"])) < 3:  # of hundreds of deltas the first ones will do
            check(self.kind, values)
        self.events.append(values)
        self.session_id = values.get("session", {}).get("id", self.session_id)
        self.arrived.set()

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        found = self.of(kind)
        assert len(found) == 1, (kind, self.types)
        return found[0]

    def first(self, kind: str) -> dict[str, Any]:
        assert self.of(kind), (kind, self.types)
        return self.of(kind)[0]

    def audio(self, kind: str = "response.output_audio.delta") -> bytes:
        return b"".join(base64.b64decode(event["delta"]) for event in self.of(kind))

    def pcm(self, kind: str = "response.output_audio.delta") -> np.ndarray:
        return np.frombuffer(self.audio(kind), dtype="<i2")

    async def until(self, kind: str, count: int = 1, seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while len(self.of(kind)) < count:
                self.arrived.clear()
                await self.arrived.wait()


Append = Callable[[str], Awaitable[None]]


async def speak(served: Served, call: Call, append: Append, pieces: Iterable[bytes], rate: int = 2 * RATE) -> None:
    """Send packets (`rate` bytes per second) as fast as the model hears them, a few on their way."""
    while not call.events:
        await asyncio.sleep(0.001)
    session = served.session(call.session_id)
    for piece in pieces:
        call.sent_s += len(piece) / rate
        while call.sent_s * RATE > (session.stats.ticks + 4) * session.step_size and not session.closing:
            await asyncio.sleep(0.001)
        await append(encode(piece))


async def speak_live(append: Append, pieces: Iterable[bytes], seconds: float = PACKET / RATE) -> None:
    """Send packets at the pace of time; a slow machine catches up."""
    start_s = time.monotonic()
    for number, piece in enumerate(pieces):
        await asyncio.sleep(max(0.0, start_s + number * seconds - time.monotonic()))
        await append(encode(piece))


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def raw(pcm: np.ndarray, law: Callable[[np.ndarray], np.ndarray] | None = None, packet: int = PACKET) -> list[bytes]:
    """Packets as bytes, in another encoding if given."""
    data = pcm if law is None else law(pcm)
    return [data[start : start + packet].tobytes() for start in range(0, len(data), packet)]


Talk = Callable[[Any, Call], Awaitable[None]]


async def realtime(served: Served, talk: Talk, beta: bool = False, **options: Any) -> Call:
    """One call over /v1/realtime: `talk` sends while everything that comes is collected."""
    client = served.client()
    call = Call("beta" if beta else "ga")
    headers = {"OpenAI-Beta": "realtime=v1"} if beta else {}
    async with client.realtime.connect(model="s2s", extra_headers=headers, **options) as connection:
        await converse(connection, call, talk)
    return call


async def live(served: Served, talk: Talk, session: dict[str, Any] | None = None) -> Call:
    """One call over /v1/live/sessions."""
    client = served.client()
    call = Call("live")
    async with client.live.connect() as connection:
        if session is not None:
            await connection.session.start(session=session)
        await converse(connection, call, talk)
    return call


async def converse(connection: Any, call: Call, talk: Talk) -> None:
    async def listen() -> None:
        while True:
            call.add(json.loads(await connection.recv_bytes()))

    listener = asyncio.create_task(listen())
    talker = asyncio.create_task(talk(connection, call))
    done, _ = await asyncio.wait([listener, talker], return_when=asyncio.FIRST_COMPLETED)
    if talker in done:
        listener.cancel()
    else:
        talker.cancel()
    for result in await asyncio.gather(listener, talker, return_exceptions=True):
        if isinstance(result, ConnectionClosed):
            call.closed = (result.rcvd.code, result.rcvd.reason) if result.rcvd else (1006, "")
        elif isinstance(result, Exception):
            raise result


def in_order(types: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether the first occurrences of the expected types come in this order."""
    places = [types.index(kind) for kind in expected]
    return places == sorted(places)
