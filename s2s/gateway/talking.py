"""Talking to a server: a recording or a sound card at the caller's end of a call, and what was heard there."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from s2s.audio.card import SoundCard
from s2s.audio.level import loudest_dbfs
from s2s.audio.playout import Playout
from s2s.gateway.client import LiveClient, Received
from s2s.gateway.serving import GatewayServer

_AUDIO = "session.output_audio.delta"
_AUDIBLE_DBFS = -50.0
AGENT_HANGUP = "agent_hangup"
"""Why a server of ours closes a call that its agent ended."""

_GOODBYE_S = 5.0  # for the server to close a call that was hung up

T = TypeVar("T")
Pcm = NDArray[np.int16]
OnEvent = Callable[[Received, float], None]
"""Called with every event, and seconds since the call began."""


@dataclass(frozen=True)
class TalkConfig:
    """packet_ms: of the caller's audio. buffer_ms: of playout. quiet_s: both silent for so long after the recording end
    the call. tail_s: how long a call goes on at most after the recording.
    """

    packet_ms: int = 20
    buffer_ms: int = 40
    quiet_s: float = 3.0
    tail_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("packet_ms", "quiet_s", "tail_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed is above 0")


@dataclass(frozen=True)
class Heard:
    """A call on the caller's clock: what the caller said and what was heard of the agent, both [N] at `sample_rate`."""

    caller: Pcm
    agent: Pcm
    sample_rate: int
    underruns: int


async def play_recording(client: LiveClient, pcm: Pcm, on_event: OnEvent, config: TalkConfig | None = None) -> Heard:
    """Say a recording [N] at the pace of time, then listen until it is quiet; Ctrl-C ends it too. The client is open.

    A packet leaves when its last sample would have been spoken. Raises ConnectionError when the server ends the call.
    """
    config = config or TalkConfig()
    packet, rate, start_s = client.rate * config.packet_ms // 1000, client.rate, time.monotonic()
    playout, last_sound_s = Playout(rate, config.buffer_ms, catch_up=True), len(pcm) / rate
    sent = 0  # samples

    def take(received: Received) -> None:
        nonlocal last_sound_s
        at_s, said = received.at_s - start_s, received.pcm()
        playout.receive(round(at_s * rate), said)
        if loudest_dbfs(said, rate // 100) > _AUDIBLE_DBFS:
            last_sound_s = max(last_sound_s, at_s)

    async def speak() -> None:
        nonlocal sent
        end_s = len(pcm) / rate
        while sent / rate < min(last_sound_s + config.quiet_s, end_s + config.tail_s):
            await asyncio.sleep(max(0.0, start_s + (sent + packet) / rate - time.monotonic()))
            said = pcm[sent : sent + packet]
            await client.append(np.pad(said, (0, packet - len(said))))
            sent += packet

    await _call(client, speak(), take, on_event, start_s)
    caller = np.pad(pcm[:sent], (0, max(0, sent - len(pcm))))
    return Heard(caller, playout.heard(0, sent), rate, playout.underruns)


async def converse(
    client: LiveClient, on_event: OnEvent, device: str | None = None, config: TalkConfig | None = None
) -> Heard:
    """Talk through the sound card until Ctrl-C. The client is open. Raises ConnectionError when the server hangs up."""
    loop, packets = asyncio.get_running_loop(), asyncio.Queue[tuple[Pcm, Pcm]]()
    tracks: tuple[list[Pcm], list[Pcm]] = ([], [])

    def on_packet(caller: Pcm, agent: Pcm) -> None:  # on the sound card's thread
        loop.call_soon_threadsafe(packets.put_nowait, (caller, agent))

    async def speak() -> None:
        while True:
            caller, agent = await packets.get()
            tracks[0].append(caller)
            tracks[1].append(agent)
            await client.append(caller)

    packet_ms = (config or TalkConfig()).packet_ms
    with SoundCard(client.rate, packet_ms, on_packet, device) as card:
        await _call(client, speak(), lambda received: card.play(received.pcm()), on_event, time.monotonic())
    nothing = np.zeros(0, np.int16)
    return Heard(
        np.concatenate([nothing, *tracks[0]]), np.concatenate([nothing, *tracks[1]]), client.rate, card.underruns
    )


async def _call(
    client: LiveClient, speak: Awaitable[None], take: Callable[[Received], None], on_event: OnEvent, start_s: float
) -> None:
    """Speak and listen at once until the speaker is done or Ctrl-C, then hang up; or until the agent hangs up."""

    async def listen() -> None:
        async for received in client:
            if received.type == _AUDIO:
                take(received)
            on_event(received, received.at_s - start_s)

    async with _interrupt() as interrupted:
        speaking, listening = asyncio.ensure_future(speak), asyncio.create_task(listen())
        stopping = asyncio.create_task(interrupted.wait())
        tasks = [listening, speaking, stopping]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if listening in done or (speaking in done and isinstance(speaking.exception(), ConnectionError)):
                await asyncio.wait([listening], timeout=_GOODBYE_S)  # the server's reason may be on its way
                if client.closed is not None and client.closed.reason == AGENT_HANGUP:
                    return
                raise _ended(client)
            for task in done:
                task.result()
            await client.hang_up()
            await asyncio.wait([listening], timeout=_GOODBYE_S)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _ended(client: LiveClient) -> ConnectionError:
    closed = client.closed
    reason = "" if closed is None else closed.reason or f"close code {closed.code}"
    return ConnectionError(f"the server ended the call: {reason or 'no reason given'}")


@contextlib.asynccontextmanager
async def _interrupt() -> AsyncIterator[asyncio.Event]:
    """An event that Ctrl-C sets, where this is the main thread."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_signal_handler(signal.SIGINT, event.set)
    except (NotImplementedError, RuntimeError, ValueError):
        yield event
        return
    try:
        yield event
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def run_call(client: LiveClient, talk: Callable[[LiveClient], Awaitable[T]]) -> T:
    """Open the client, talk and close it, in an event loop of its own."""

    async def call() -> T:
        async with client:
            return await talk(client)

    return asyncio.run(call())


def serve_and_call(server: GatewayServer, talk: Callable[[str], Awaitable[T]]) -> T:
    """Run a server, whose engine has been started, for as long as `talk(url)` lasts."""

    async def both() -> T:
        ready = asyncio.Event()
        server.on_ready = ready.set
        serving = asyncio.create_task(server.serve())
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        try:
            if serving.done():
                raise ConnectionError(server.failure or "the server did not start")
            host, port = server.address
            return await talk(f"ws://{host}:{port}")
        finally:
            waiting.cancel()
            server.should_exit = True
            await serving

    server.capture_signals = contextlib.nullcontext  # type: ignore  # Ctrl-C ends the call, and so the server
    return asyncio.run(both())
