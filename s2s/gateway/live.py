"""The GPT-Live protocol as a transport: full duplex as the model is. Audio flows both ways, silence too."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict
from typing import Any

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
    Configure,
    Hangup,
    Incoming,
    Mute,
    Outgoing,
    Problem,
)
from s2s.gateway.live_events import (
    Append,
    ClientEvent,
    Close,
    Context,
    MuteInput,
    SessionConfig,
    Start,
    UnmuteInput,
    Unsupported,
    Update,
    format_to_json,
    parse_event,
    wire_format,
)
from s2s.gateway.messages import ProtocolError, decode_base64, encode_base64, new_id
from s2s.gateway.websocket import GOING_AWAY, INTERNAL, NORMAL, POLICY, TRY_AGAIN, IdleError, Socket

_USAGE_EVERY_MS = 10_000
_NO_LIMIT_S = 365 * 24 * 3600  # what `expires_at` says of calls that may last for ever
_EXTENSIONS = {
    CallerStarted: "s2s.caller_started",
    CallerStopped: "s2s.caller_stopped",
    AnswerStarted: "s2s.answer_started",
    AnswerEnded: "s2s.answer_ended",
}
_CLOSE_CODES = {
    "expired": NORMAL,
    "agent_hangup": NORMAL,
    "failed": INTERNAL,
    "server_shutdown": GOING_AWAY,
    "input_flood": POLICY,
}
_CLOSED = {"expired": "expired", "agent_hangup": "remote_hangup"}
"""What `session.closed` says of ends that are no mistake."""


class LiveTransport:
    """One connection. `start` waits for the client's `session.start`; then a session is opened and `begin` says so."""

    continuous = True

    def __init__(
        self,
        socket: Socket,
        model: str,
        max_call_s: float | None = None,
        extensions: bool = False,
        opening: bool = True,
    ):
        """Args: extensions: also tell who speaks, by events of our own (`s2s.*`) that the protocol does not have.

        opening: whether the agent speaks first where the client does not say it.
        """
        self._socket, self._model, self._max_call_s, self._extensions = socket, model, max_call_s, extensions
        self._opening = opening
        self._config = SessionConfig(model=model)
        self._session: dict[str, Any] = {}
        self._pending: deque[Incoming] = deque()
        self._now_ms = self._next_usage_ms = 0
        self._close_id: str | None = None
        self._close_requested = self._told_context = False

    @property
    def consent(self) -> bool:
        return self._config.store is True

    @property
    def opening(self) -> bool:
        """Whether the agent speaks first, once `start` has heard it."""
        return self._opening if self._config.opening is None else self._config.opening

    async def start(self) -> bool:
        """Wait for `session.start`; False when the client is gone or was cut for not saying it."""
        deadline = time.monotonic() + self._socket.limits.start_s
        while True:
            try:
                text = await self._socket.receive(max(0.01, deadline - time.monotonic()))
            except IdleError:
                await self._error("session_not_started", "session.start did not come")
                await self._socket.close(POLICY, "session_not_started")
                return False
            if text is None:
                return False
            try:
                event = self._parse(text)
                if not isinstance(event, Start):
                    message = "the first event is session.start"
                    raise ProtocolError("session_not_started", message, "type", event.event_id)
            except ProtocolError as error:
                await self._refuse(error)
                continue
            self._config, self._start_id = event.session, event.event_id
            return True

    async def begin(self, session_id: str) -> None:
        """Tell the client that its session runs."""
        wire, config = wire_format(self._config.audio), self._config
        voice = config.audio.output.voice if config.audio and config.audio.output else None
        given = config.model_dump(exclude_none=True, exclude={"audio", "model"})
        self._session = {
            "id": f"live_{session_id}",
            "object": "live.session",
            "model": self._model,
            "status": "active",
            "expires_at": round(time.time() + (self._max_call_s or _NO_LIMIT_S)),
            "audio": {"format": format_to_json(wire), "output": {"voice": _voice(voice)}},
            "delegation": {"type": "client", "acknowledgement_delay_ms": 0},
            "store": False,
        } | given
        self._session["opening"] = self.opening
        self._pending.append(Configure(wire, wire))
        await self._emit("session.started", self._start_id, session=self._session)
        if config.instructions or config.input:
            await self._tell_context()

    async def refuse_full(self) -> None:
        await self._error("server_full", "all sessions are taken, try again later", kind="server_error")
        await self._socket.close(TRY_AGAIN, "server_full")

    # From the client.

    async def recv(self) -> Incoming | None:
        while not self._pending:
            try:
                text = await self._socket.receive()
            except IdleError as error:
                await self._error("idle_timeout", str(error))
                await self._socket.close(POLICY, "idle_timeout")
                return None
            if text is None:
                return None
            try:
                await self._take(self._parse(text))
            except ProtocolError as error:
                await self._refuse(error)
        return self._pending.popleft()

    def _parse(self, text: str | bytes) -> ClientEvent:
        event = parse_event(text)
        limit = self._socket.limits.max_message
        if len(text) > limit and not isinstance(event, Append):
            raise ProtocolError("message_too_large", f"allowed are {limit} bytes", None, event.event_id)
        return event

    async def _take(self, event: ClientEvent) -> None:
        if isinstance(event, Append):
            self._pending.append(CallerAudio(decode_base64(event.audio, event.event_id)))
        elif isinstance(event, MuteInput | UnmuteInput):
            muted, limits = isinstance(event, MuteInput), self._socket.limits
            self._socket.idle_s = limits.idle_manual_s if muted else limits.idle_s
            self._pending.append(Mute(muted))
            await self._emit(f"session.input_audio.{'muted' if muted else 'unmuted'}", event.event_id)
        elif isinstance(event, Context):
            await self._emit(f"{event.type}ed", event.event_id, start_ms=self._now_ms, end_ms=self._now_ms)
            await self._tell_context()
        elif isinstance(event, Update):
            if event.session.delegation is not None:
                self._session["delegation"] = event.session.delegation.model_dump(exclude_none=True)
            await self._emit("session.updated", event.event_id, session=self._session)
        elif isinstance(event, Close):
            self._close_requested, self._close_id = True, event.event_id
            self._pending.append(Hangup())
        elif isinstance(event, Start):
            raise ProtocolError("session_already_started", "the session runs already", "type", event.event_id)
        else:
            assert isinstance(event, Unsupported)
            raise ProtocolError("unsupported_event", f"{event.type} is not supported here", "type", event.event_id)

    async def _tell_context(self) -> None:
        """Say once that text is taken and not understood, rather than let the client wonder."""
        if not self._told_context:
            self._told_context = True
            message = "this model hears and does not read: context is accepted and changes nothing it says"
            await self._emit("info", None, code="context_not_read", message=message)

    # To the client.

    async def send(self, event: Outgoing) -> None:
        if isinstance(event, AgentAudio):
            self._now_ms = event.end_ms
            await self._socket.send({"type": "session.output_audio.delta", "delta": encode_base64(event.data)})
            if event.end_ms >= self._next_usage_ms + _USAGE_EVERY_MS:
                self._next_usage_ms = event.end_ms
                await self._emit("session.usage.updated", None, usage=self._usage())
        elif isinstance(event, CallerText | AgentText):
            kind = "input" if isinstance(event, CallerText) else "output"
            times = {"start_ms": event.start_ms, "end_ms": event.end_ms}
            await self._emit(f"session.{kind}_transcript.delta", None, delta=event.text, **times)
        elif isinstance(event, Action):
            delegation = {"id": new_id("dlg"), "type": "delegation", "target": "client", "name": event.name}
            await self._emit("session.delegation.created", None, delegation=delegation, offset_ms=event.at_ms)
        elif isinstance(event, Problem):
            await self._error(event.code, event.message)
        elif isinstance(event, CallEnded) and event.reason not in _CLOSED:
            kind = "invalid_request_error" if event.reason == "input_flood" else "server_error"
            code = "session_failed" if event.reason == "failed" else event.reason
            await self._error(code, event.message, kind=kind)
        elif self._extensions and type(event) in _EXTENSIONS:
            await self._emit(_EXTENSIONS[type(event)], None, **asdict(event))

    async def clear(self) -> None:
        """Audio goes out as it is made, at the pace of time: there is nothing to take back."""

    async def close(self, ended: CallEnded | None = None) -> None:
        code, reason = NORMAL, ""
        try:
            if ended is not None:
                code, reason = _CLOSE_CODES[ended.reason], ended.reason
                await self.send(ended)
            why = "close_requested" if ended is None else _CLOSED.get(ended.reason, "close_requested")
            if self._close_requested or (ended is not None and ended.reason in _CLOSED):
                await self._emit(
                    "session.closed", self._close_id, reason=why, session=self._session, usage=self._usage()
                )
        except ConnectionError:
            return
        await self._socket.close(code, reason)

    def _usage(self) -> dict[str, Any]:
        return {"seconds": self._now_ms / 1000}

    async def _emit(self, kind: str, client_event_id: str | None, **values: Any) -> None:
        given = {} if client_event_id is None else {"client_event_id": client_event_id}
        await self._socket.send({"type": kind, "event_id": new_id("event"), **given, **values})

    async def _refuse(self, error: ProtocolError) -> None:
        await self._error(error.code, error.message, error.param, error.event_id)

    async def _error(
        self,
        code: str,
        message: str,
        param: str | None = None,
        event_id: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        error = {"type": kind, "code": code, "message": message, "param": param, "client_event_id": event_id}
        await self._emit("error", event_id, error=error)


def _voice(voice: Any) -> Any:
    if voice is None:
        return "agent"
    return voice if isinstance(voice, str) else {"id": voice.id}
