"""A benchmark's caller: one call at real-time pace over a real socket, recorded on the caller's side.

The caller's clock counts samples from the first one said; sample n happens n / rate seconds after it. A packet of 20 ms
leaves when its last sample has happened, as from a microphone. What arrives is played through `Playout`, so both tracks
of a recording are on this one clock, buffers included.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from s2s.audio.playout import Playout
from s2s.gateway.client import CallRefused, Connection, LiveClient, Received, endpoint

RATE: Final = 24000
PACKET_MS = 20
PACKET = RATE * PACKET_MS // 1000
_CLOSE_S = 5.0

Pcm = NDArray[np.int16]
Wire = Literal["live", "realtime"]


class Talk(Protocol):
    """What a caller says, packet by packet, perhaps depending on what it hears."""

    def say(self, start: int, heard: Pcm) -> Pcm | None:
        """The packet that begins at `start` [PACKET], given what was heard during the one before; None: hang up."""
        ...


class Recital:
    """A caller who plays a recording [N] and listens for `tail` more samples."""

    def __init__(self, pcm: Pcm, tail: int = 0):
        size = -(-(len(pcm) + tail) // PACKET) * PACKET
        self._pcm = np.zeros(size, dtype=np.int16)
        self._pcm[: len(pcm)] = pcm

    def say(self, start: int, heard: Pcm) -> Pcm | None:
        return self._pcm[start : start + PACKET] if start < len(self._pcm) else None


@dataclass(frozen=True)
class CallConfig:
    """Whom to call and how. playout_ms: the client's playout buffer. max_s: no call is longer."""

    url: str
    token: str | None = field(default=None, repr=False)
    wire: Wire = "live"
    playout_ms: int = 40
    max_s: float = 300.0
    open_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.wire not in ("live", "realtime"):
            raise ValueError(f"the protocol is {self.wire!r}, allowed are live and realtime")
        endpoint(self.url)


@dataclass
class RecordedCall:
    """What happened in a call: pcm of the caller and of the agent as played [N], on the caller's clock.

    arrivals: when each packet of the agent arrived and when it began to be heard. underruns: of the playout.
    late_ms: how much too late the worst packet of the caller left, a measure of the client, not of the server.
    """

    caller: Pcm
    agent: Pcm
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    underruns: int = 0
    late_ms: float = 0.0
    error: str = ""
    sample_rate: int = RATE


@dataclass
class Attempt:
    """A call that was placed at `placed_s`, of `time.monotonic()`; `answer_ms` later it was begun, refused or failed.

    refused: the server's code where it said no, such as `server_full`. call: None unless it was begun. number: given by
    whoever placed it.
    """

    placed_s: float
    answer_ms: float
    refused: str = ""
    error: str = ""
    call: RecordedCall | None = None
    number: int = 0

    @property
    def failure(self) -> str:
        """Why the call, not refused, is not whole; empty if it is."""
        return self.error or (self.call.error if self.call else "")


@dataclass(frozen=True)
class _Line:
    """A protocol: how a connection opens, how audio is sent, and what an event means for the playout."""

    connection: Connection
    append: Callable[[Pcm], Awaitable[float]]
    hang_up: Callable[[], Awaitable[Any]]
    meaning: Callable[[Received], Pcm | Literal["clear", "pause"] | None]


async def place_call(config: CallConfig, talk: Talk) -> Attempt:
    """One call from its handshake to its end. Whatever goes wrong stands in the result."""
    placed_s = time.monotonic()
    try:
        line = await _open(config)
    except CallRefused as refusal:
        return Attempt(placed_s, _ms_since(placed_s), refused=refusal.code or f"http_{refusal.status}")
    except (OSError, KeyError) as error:
        return Attempt(placed_s, _ms_since(placed_s), error=str(error) or type(error).__name__)
    answer_ms = _ms_since(placed_s)
    try:
        return Attempt(placed_s, answer_ms, call=await _converse(line, talk, config))
    finally:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await line.connection.close()


def _ms_since(start_s: float) -> float:
    return 1000 * (time.monotonic() - start_s)


async def _open(config: CallConfig) -> _Line:
    if config.wire == "live":
        live = LiveClient(config.url, config.token, rate=RATE, open_timeout_s=config.open_timeout_s)
        await live.open()
        return _Line(live, live.append, live.hang_up, _live_meaning)
    address = endpoint(config.url, "/v1/realtime", "model=s2s")
    connection = Connection(address, config.token, open_timeout_s=config.open_timeout_s)
    await connection.open()
    try:
        async with asyncio.timeout(config.open_timeout_s):
            await _configure(connection)
    except (TimeoutError, ConnectionError) as error:
        await connection.close()
        raise ConnectionError(f"{address} does not begin a session: {error or 'it is silent'}") from None

    async def append(pcm: Pcm) -> float:
        audio = base64.b64encode(pcm.astype("<i2").tobytes()).decode("ascii")
        return await connection.send({"type": "input_audio_buffer.append", "audio": audio})

    return _Line(connection, append, connection.close, _realtime_meaning)


async def _configure(connection: Connection) -> None:
    """Ask for 24 kHz both ways and turns found by the server, and wait until it agrees."""
    pcm = {"type": "audio/pcm", "rate": RATE}
    audio = {"input": {"format": pcm, "turn_detection": {"type": "server_vad"}}, "output": {"format": pcm}}
    session = {"type": "realtime", "output_modalities": ["audio"], "audio": audio}
    await connection.send({"type": "session.update", "session": session})
    while (received := await connection.receive()) is not None:
        if received.type == "session.updated":
            return
        if received.type == "error":
            raise ConnectionError(str(received.event.get("error", {}).get("message", "an error")))
    raise ConnectionError("the server closed the connection")


def _live_meaning(received: Received) -> Pcm | Literal["clear", "pause"] | None:
    return received.pcm() if received.type == "session.output_audio.delta" else None


def _realtime_meaning(received: Received) -> Pcm | Literal["clear", "pause"] | None:
    """As clients of this protocol do: a caller who starts to speak drops what is queued."""
    if received.type in ("response.output_audio.delta", "response.audio.delta"):
        return received.pcm()
    if received.type == "input_audio_buffer.speech_started":
        return "clear"
    return "pause" if received.type == "response.done" else None


async def _converse(line: _Line, talk: Talk, config: CallConfig) -> RecordedCall:
    playout, start_s = Playout(RATE, config.playout_ms, catch_up=config.wire == "live"), time.monotonic()
    call = RecordedCall(np.zeros(0, np.int16), np.zeros(0, np.int16))
    said: list[Pcm] = []

    async def listen() -> None:
        async for received in line.connection:
            at, meaning = round((received.at_s - start_s) * RATE), line.meaning(received)
            if isinstance(meaning, np.ndarray):
                call.arrivals.append((at, playout.receive(at, meaning)))
            elif meaning == "clear":
                playout.clear(at)
            elif meaning == "pause":
                playout.pause()

    async def speak() -> None:
        for number in range(round(config.max_s * 1000 / PACKET_MS)):
            start = number * PACKET
            packet = talk.say(start, playout.heard(max(0, start - PACKET), start) if number else _SILENCE)
            if packet is None:
                return
            due_s = start_s + (start + PACKET) / RATE
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            call.late_ms = max(call.late_ms, 1000 * (time.monotonic() - due_s))
            await line.append(packet)
            said.append(packet)
        call.error = f"not over after {config.max_s:g} s"

    listening, speaking = asyncio.create_task(listen()), asyncio.create_task(speak())
    try:
        await asyncio.wait([listening, speaking], return_when=asyncio.FIRST_COMPLETED)
        if not speaking.done():
            call.error = _ending(line.connection)
        elif (problem := speaking.exception()) is not None:
            call.error = f"{problem} {_ending(line.connection)}".strip()
    finally:
        for task in (listening, speaking):
            task.cancel()
        await asyncio.gather(listening, speaking, return_exceptions=True)
    with contextlib.suppress(ConnectionError):
        await line.hang_up()
    call.caller = np.concatenate([*said, _SILENCE[:0]])
    call.agent, call.underruns = playout.heard(0, len(call.caller)), playout.underruns
    return call


_SILENCE = np.zeros(PACKET, dtype=np.int16)


def _ending(connection: Connection) -> str:
    closed = connection.closed
    return "" if closed is None else f"the server ended the call: {closed.code} {closed.reason}".strip()
