"""The bridge: the only loop between a transport and a session. Everything a call does happens here.

Two tasks share it. One listens: what the client sends goes to the model and to the voice activity detector, whose word
about the caller goes out at once. The other speaks: each step of the model, passed by the floor, goes to the client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from s2s.engine.session import Act, Audio, BufferFull, Ended, Event, Session, Text
from s2s.gateway.base import (
    Action,
    AgentAudio,
    AgentText,
    AnswerEnded,
    AnswerStarted,
    CallEnded,
    CallerAudio,
    CallerStarted,
    CallerStopped,
    CallerText,
    CallerTextDone,
    CancelAnswer,
    ClearInput,
    CommitTurn,
    Configure,
    Hangup,
    Incoming,
    Mute,
    Outgoing,
    Problem,
    RequestAnswer,
    Transport,
    TurnCommitted,
)
from s2s.gateway.floor import Floor, FloorConfig, Stopped, Words
from s2s.gateway.formats import Decoder, Encoder
from s2s.gateway.turns import Heard, TurnDetection, TurnDetector
from s2s.gateway.voice import VoiceActivity

logger = logging.getLogger(__name__)


HANGUP = "hangup"
"""The action of an agent that has said goodbye."""


class Observer(Protocol):
    """Who watches a call without taking part: metrics, recordings."""

    def heard(self, pcm: NDArray[np.int16]) -> None: ...

    def said(self, pcm: NDArray[np.int16]) -> None: ...

    def event(self, event: Outgoing) -> None: ...


@dataclass(frozen=True)
class BridgeConfig:
    """max_call_s: None is no limit. max_held_s: audio that may wait where the client ends the turns and so may send
    faster than time. flood_s: audio refused until the call is ended. text_wait_ms: how long after a turn the model may
    still write what it understood. hang_up: the call ends when the agent's action HANGUP has been told.
    """

    max_call_s: float | None = None
    max_held_s: float = 30.0
    flood_s: float = 20.0
    text_wait_ms: int = 800
    hang_up: bool = False
    floor: FloorConfig = field(default_factory=FloorConfig)


async def bridge(
    transport: Transport, session: Session, config: BridgeConfig | None = None, observers: Sequence[Observer] = ()
) -> CallEnded | None:
    """Run one call to its end and close both sides; None where the client hung up or is gone."""
    call = Call(transport, session, config or BridgeConfig(), observers)
    ended: CallEnded | None = None
    try:
        async with asyncio.timeout(call.config.max_call_s):
            ended = await call.run()
    except TimeoutError:
        ended = CallEnded("expired", f"a call may last {call.config.max_call_s:g} s")
    except ConnectionError as error:
        logger.info("call %s: the client is gone: %s", session.id, error)
    finally:
        session.on_events = None
        session.close()
        await transport.close(ended)
    return ended


class Call:
    """What the two tasks of a bridge share."""

    def __init__(self, transport: Transport, session: Session, config: BridgeConfig, observers: Sequence[Observer]):
        self.transport, self.session, self.config, self.observers = transport, session, config, observers
        self.rate = session.sample_rate
        self.floor, self.words = Floor(self.rate, config.floor), Words()
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()  # what one task says in a row, the other does not interrupt
        self._muted = False
        self._held: deque[NDArray[np.int16]] = deque()  # audio of a client that may be faster than time
        self._untold_ms: int | None = None  # start of a turn that the client has not been told of
        self._received = self._turn_start = self._refused = 0  # samples
        self._told_full_s = -1.0  # when the client was last told that it is too fast
        self._end_ms = 0  # of the output clock
        self._answer_start_ms = 0
        self._acts: list[Act] = []  # decided, and not told before what was said with them has been heard
        self._text_due_ms: int | None = None  # when the last turn's text counts as complete
        self._configure(Configure())

    async def run(self) -> CallEnded | None:
        """Until one of the two tasks is done; its errors are the call's."""
        loop = asyncio.get_running_loop()

        def on_events() -> None:  # on the engine's thread
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._wake.set)

        self.session.on_events = on_events
        self._wake.set()
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._speak())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return min(done, key=tasks.index).result()

    async def send(self, *events: Outgoing) -> None:
        """Send these in a row; the caller holds the lock."""
        for event in events:
            await self.transport.send(event)
            for observer in self.observers:
                observer.event(event)

    # Listening.

    async def _listen(self) -> CallEnded | None:
        while (incoming := await self.transport.recv()) is not None and not isinstance(incoming, Hangup):
            async with self._lock:
                if not isinstance(incoming, CallerAudio):
                    await self._obey(incoming)
                elif (ended := await self._hear(incoming.data)) is not None:
                    return ended
        return None

    async def _obey(self, incoming: Incoming) -> None:
        if isinstance(incoming, Configure):
            self._configure(incoming)
        elif isinstance(incoming, CommitTurn):
            await self._commit()
        elif isinstance(incoming, ClearInput):
            self._held.clear()
            self._turn_start = self._received
        elif isinstance(incoming, Mute):
            self._muted = incoming.muted
        elif isinstance(incoming, RequestAnswer):
            await self._request()
        elif isinstance(incoming, CancelAnswer):
            await self._stop("client_cancelled")

    def _configure(self, wanted: Configure) -> None:
        self._decoder = Decoder(wanted.input_format, self.rate)
        self._encoder = Encoder(wanted.output_format, self.rate)
        detection = wanted.turn_detection
        if detection is None:
            self._voice, self._turns = None, None
        else:
            self._voice, self._turns = VoiceActivity(self.rate), TurnDetector(detection)
            self._voice_start_ms = self._received_ms
        self._untold_ms = None

    @property
    def _received_ms(self) -> int:
        return 1000 * self._received // self.rate

    async def _hear(self, data: bytes) -> CallEnded | None:
        try:
            pcm = self._decoder.decode(data)
        except ValueError as error:
            await self.send(Problem("invalid_audio", str(error)))
            return None
        if self._muted:
            pcm = np.zeros_like(pcm)
        taken = self._push(pcm)
        self._received += len(taken)
        for observer in self.observers:
            observer.heard(taken)
        if len(taken) < len(pcm) and (ended := await self._too_fast(len(pcm) - len(taken))):
            return ended
        if self._voice is not None and self._turns is not None:
            for hop in self._voice.push(taken):
                await self._judge(self._turns.push(hop), self._turns.detection)
        return None

    def _push(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """Hand samples to the session, as many as have room; those taken."""
        step = self.session.step_size
        for start in range(0, len(pcm), step):
            piece = pcm[start : start + step]
            if not self._held and self._push_one(piece):
                continue
            held = sum(len(waiting) for waiting in self._held)
            if self._turns is not None or held + len(piece) > self.config.max_held_s * self.rate:
                return pcm[:start]
            self._held.append(piece)
        return pcm

    def _push_one(self, pcm: NDArray[np.int16]) -> bool:
        try:
            self.session.push(pcm)
        except BufferFull:
            return False
        return True

    async def _too_fast(self, refused: int) -> CallEnded | None:
        """Tell the client, once a second, that its audio was not heard; end the call of one that goes on and on."""
        self._refused += refused
        if self._refused > self.config.flood_s * self.rate:
            return CallEnded("input_flood", "far more audio came than time passed")
        if time.monotonic() - self._told_full_s > 1.0:
            self._told_full_s = time.monotonic()
            message = f"audio comes faster than real time: {1000 * refused // self.rate} ms were not heard"
            await self.send(Problem("input_audio_buffer_full", message))
        return None

    async def _judge(self, heard: Heard, detection: TurnDetection) -> None:
        taken = self.floor.caller(heard, detection.interrupt_response)
        if heard.started_ms is not None:
            self._untold_ms = self._voice_start_ms + heard.started_ms
        if heard.stopped_ms is not None and self._untold_ms is not None and self.floor.over_agent:
            self._untold_ms = None  # a backchannel
            return
        if self._untold_ms is not None and (taken or not (detection.patient and self.floor.over_agent)):
            started_ms, self._untold_ms = self._untold_ms, None
            self._turn_start = max(self._turn_start, self._samples(started_ms))
            await self.send(CallerStarted(started_ms))
        if taken:
            await self._stop("turn_detected")
        if heard.stopped_ms is not None:
            await self.send(CallerStopped(self._voice_start_ms + heard.stopped_ms))
            await self._commit()

    async def _commit(self) -> None:
        duration_ms = 1000 * (self._received - self._turn_start) // self.rate
        self._turn_start = self._received
        if duration_ms and self._text_due_ms is not None:
            await self.send(CallerTextDone())
        await self.send(TurnCommitted(duration_ms))
        if duration_ms:
            unheard_ms = 1000 * self._unheard // self.rate
            self._text_due_ms = self._end_ms + unheard_ms + self.config.text_wait_ms

    async def _request(self) -> None:
        if self.floor.requested:
            code, message = "conversation_already_has_active_response", "the answer asked for before is not over"
            await self.send(Problem(code, message))
            return
        going_on = self.floor.answering
        self.floor.request(self._unheard)
        if not going_on:
            await self._begin_answer(self._end_ms)

    async def _stop(self, reason: Stopped) -> None:
        played_ms = self.floor.cancel(reason)
        self.words.drop()
        self._acts.clear()
        if played_ms is None:
            if reason == "client_cancelled":
                await self.send(Problem("response_cancel_not_active", "there is no answer to cancel"))
            return
        await self.transport.clear()
        await self.send(AnswerEnded(reason, played_ms))

    def _samples(self, milliseconds: int) -> int:
        return milliseconds * self.rate // 1000

    @property
    def _unheard(self) -> int:
        """Samples received that the model has not heard yet."""
        return sum(map(len, self._held)) + self.session.stats.buffered_samples

    # Speaking.

    async def _speak(self) -> CallEnded | None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            events = self.session.pull()
            for i, event in enumerate(events):
                if isinstance(event, Ended):
                    return self._ended(event)
                if isinstance(event, Audio):
                    async with self._lock:
                        if (ended := await self._say(event, _same_step(events, i + 1))) is not None:
                            return ended
            while self._held and self._push_one(self._held[0]):
                self._held.popleft()

    def _ended(self, event: Ended) -> CallEnded | None:
        if event.reason == "closed":
            return None
        if event.reason == "failed":
            return CallEnded("failed", event.error or "the session failed")
        return CallEnded("server_shutdown", "the engine has stopped")

    async def _say(self, audio: Audio, beside: list[Text | Act]) -> CallEnded | None:
        start_ms = 1000 * audio.position // self.rate
        self._end_ms = 1000 * (audio.position + len(audio.pcm)) // self.rate
        for event in beside:
            if isinstance(event, Text) and event.stream == "user_text":
                await self._understood(event.text, start_ms)
            elif self.floor.shut:
                continue  # what the caller did not let the agent say, it does not do either
            elif isinstance(event, Act):
                self._acts.append(event)
            elif event.stream == "agent_text":
                self.words.add(event.text, start_ms)
        pcm, started, finished = self.floor.agent(audio.pcm, self._received_ms)
        for observer in self.observers:
            observer.said(pcm)
        if started:
            await self._begin_answer(start_ms)
        answering = self.floor.answering or finished is not None
        if answering:
            await self._send_words()
        if answering or self.transport.continuous:
            data = self._encoder.encode(pcm)
            await self.send(AgentAudio(data, start_ms, self._end_ms, answering))
        if finished:
            await self.send(AnswerEnded("completed", finished.played_ms))
        if self._text_due_ms is not None and self._end_ms >= self._text_due_ms:
            self._text_due_ms = None
            await self.send(CallerTextDone())
        return await self._act()

    async def _act(self) -> CallEnded | None:
        """Tell of actions once the answer they belong to is over: it ends with a pause, in which clients play it out.

        Words run ahead of their sound, so without an answer going on one may be about to begin.
        """
        pause_ms = self.floor.config.pause_ms
        while self._acts and not self.floor.answering:
            at_ms = 1000 * self._acts[0].position // self.rate
            if self._end_ms < at_ms + pause_ms:
                break
            name = self._acts.pop(0).name
            await self.send(Action(name, at_ms))
            if name == HANGUP and self.config.hang_up:
                return CallEnded("agent_hangup", "the agent has said goodbye")
        return None

    async def _begin_answer(self, start_ms: int) -> None:
        self._answer_start_ms = start_ms
        await self.send(AnswerStarted())

    async def _send_words(self) -> None:
        for text, at_ms in self.words.take():
            offset_ms = max(0, at_ms - self._answer_start_ms)
            await self.send(AgentText(text, at_ms, self._end_ms, offset_ms))

    async def _understood(self, text: str, start_ms: int) -> None:
        await self.send(CallerText(text, start_ms, self._end_ms))
        if self._text_due_ms is not None:
            self._text_due_ms = self._end_ms + self.config.text_wait_ms


def _same_step(events: list[Event], start: int) -> list[Text | Act]:
    """The texts and actions of one step, which follow its audio."""
    found: list[Text | Act] = []
    for event in events[start:]:
        if not isinstance(event, Text | Act):
            break
        found.append(event)
    return found
