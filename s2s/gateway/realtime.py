"""The OpenAI Realtime protocol as a transport: what its clients say and expect, in the documented order.

A turn: speech_started, speech_stopped, committed, item added and done. An answer: response.created, output_item.added,
item added, content_part.added, transcript and audio deltas, output_audio.done, transcript done, content_part.done,
output_item.done, item done, response.done. The caller's transcript follows its item.
"""

from __future__ import annotations

from collections.abc import Callable
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
    CallerTextDone,
    CancelAnswer,
    ClearInput,
    CommitTurn,
    Incoming,
    Outgoing,
    Problem,
    RequestAnswer,
    TurnCommitted,
)
from s2s.gateway.conversation import Answer, Conversation
from s2s.gateway.messages import ProtocolError, decode_base64, encode_base64, new_id
from s2s.gateway.realtime_events import (
    AnswerOptions,
    Append,
    Clear,
    ClientEvent,
    Commit,
    Dialect,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
    dialect_of,
    parse_event,
    parse_item,
    parse_session,
)
from s2s.gateway.realtime_session import RealtimeSettings
from s2s.gateway.websocket import GOING_AWAY, INTERNAL, NORMAL, POLICY, IdleError, Socket

_CLOSE_CODES = {
    "expired": NORMAL,
    "agent_hangup": NORMAL,
    "failed": INTERNAL,
    "server_shutdown": GOING_AWAY,
    "input_flood": POLICY,
}


class RealtimeTransport:
    """One connection."""

    continuous = False

    def __init__(
        self,
        socket: Socket,
        session_id: str,
        model: str,
        dialect: Dialect,
        max_call_s: float | None = None,
        opening: bool = True,
    ):
        """Args: opening: whether the agent speaks first where the client does not say it."""
        self._socket = socket
        self.settings = RealtimeSettings(session_id, model, dialect, max_call_s, opening)
        self._conversation = Conversation(socket.limits.max_history)
        self._answer: Answer | None = None
        self._options: AnswerOptions | None = None  # of the answer asked for
        self._turn_id = new_id("item")  # the item that the caller's present turn becomes
        self._heard = ""  # text understood of a turn that has no item yet
        self._open_turn: dict[str, Any] | None = None  # the last turn's item while its text may go on
        self._told_dialect = dialect == "beta"
        self._wish_id: str | None = None  # event_id of the client's last wish that may fail later
        self.on_begin: Callable[[bool], None] | None = None  # called once: the conversation begins, with an opening?
        self._begun = self._spoke = False
        self._seconds = [0.0, 0.0]  # heard and said, for usage

    async def open(self) -> None:
        await self._emit("session.created", session=self.settings.to_json())

    def begin(self) -> None:
        """Let the conversation begin, as the client's first event does: who speaks first is then decided."""
        if not self._begun:
            self._begun = True
            if self.on_begin is not None:
                self.on_begin(self.settings.opening)

    # From the client.

    async def recv(self) -> Incoming | None:
        while True:
            try:
                text = await self._socket.receive()
            except IdleError as error:
                await self._error("idle_timeout", str(error))
                await self._socket.close(POLICY, "idle_timeout")
                return None
            if text is None:
                return None
            try:
                event = parse_event(text)
                self._check_size(text, event)
                incoming = await self._take(event)
                self.begin()
            except ProtocolError as error:
                await self._error(error.code, error.message, error.param, error.event_id)
                continue
            if incoming is not None:
                return incoming

    def _check_size(self, text: str | bytes, event: ClientEvent) -> None:
        limit = self._socket.limits.max_message
        if len(text) > limit and not isinstance(event, Append):
            raise ProtocolError("message_too_large", f"allowed are {limit} bytes", None, event.event_id)

    async def _take(self, event: ClientEvent) -> Incoming | None:
        """Answer an event, or turn it into what the bridge has to do."""
        self._wish_id = event.event_id
        if isinstance(event, Append):
            return CallerAudio(decode_base64(event.audio, event.event_id))
        if isinstance(event, SessionUpdate):
            return await self._update(event)
        if isinstance(event, Commit):
            return CommitTurn()
        if isinstance(event, Clear):
            await self._emit("input_audio_buffer.cleared")
            return ClearInput()
        if isinstance(event, ResponseCreate):
            self._options = event.response
            return RequestAnswer()
        if isinstance(event, ResponseCancel):
            return self._cancel(event)
        if isinstance(event, ItemTruncate):
            return await self._truncate(event)
        if isinstance(event, ItemCreate):
            await self._create(event)
        elif isinstance(event, ItemRetrieve):
            item = self._conversation.get(event.item_id, event.event_id)
            await self._emit("conversation.item.retrieved", item=item)
        elif isinstance(event, ItemDelete):
            self._conversation.delete(event.item_id, event.event_id)
            await self._emit("conversation.item.deleted", item_id=event.item_id)
        else:
            raise ProtocolError("invalid_event", f"{event.type} is for WebRTC and SIP only", "type", event.event_id)
        return None

    async def _update(self, event: SessionUpdate) -> Incoming:
        dialect = None if self._told_dialect else dialect_of(event.session)
        given = parse_session(event.session, dialect or self.settings.dialect, event.event_id)
        voice = ((given.get("audio") or {}).get("output") or {}).get("voice", self.settings.voice)
        if self._spoke and voice != self.settings.voice:
            message = "the voice cannot change once the agent has spoken"
            raise ProtocolError("cannot_update_voice", message, "session.audio.output.voice", event.event_id)
        if self._begun and given.get("opening") not in (None, self.settings.opening):
            message = "who speaks first is decided by the first event of a call"
            raise ProtocolError("cannot_update_opening", message, "session.opening", event.event_id)
        if dialect is not None:
            self.settings.dialect, self._told_dialect = dialect, True
        self.settings.update(given)
        manual = self.settings.values["audio"]["input"]["turn_detection"] is None
        self._socket.idle_s = self._socket.limits.idle_manual_s if manual else self._socket.limits.idle_s
        await self._emit("session.updated", session=self.settings.to_json())
        return self.settings.configure()

    def _cancel(self, event: ResponseCancel) -> Incoming:
        if self._answer is None or event.response_id not in (None, self._answer.id):
            raise ProtocolError(
                "response_cancel_not_active", "there is no such response", "response_id", event.event_id
            )
        return CancelAnswer()

    async def _truncate(self, event: ItemTruncate) -> Incoming | None:
        """A client that truncates what is still being said has stopped playing it, so the answer is over."""
        answer = self._answer
        if answer is None or event.item_id != answer.item_id:
            self._conversation.truncate(event.item_id, event.content_index, event.audio_end_ms, event.event_id)
        else:
            self._conversation.get(event.item_id, event.event_id)
            if event.content_index != 0 or event.audio_end_ms > answer.sent_ms:
                message = f"the item has content 0 with {answer.sent_ms} ms of audio so far"
                raise ProtocolError("invalid_value", message, "audio_end_ms", event.event_id)
            answer.sent_ms = event.audio_end_ms
        ids = {"item_id": event.item_id, "content_index": event.content_index, "audio_end_ms": event.audio_end_ms}
        await self._emit("conversation.item.truncated", **ids)
        return CancelAnswer() if answer is not None and event.item_id == answer.item_id else None

    async def _create(self, event: ItemCreate) -> None:
        """Items of the client become history. The model does not read them: it has ears and no page."""
        item = parse_item(event.item, event.event_id)
        item = {"id": new_id("item"), "object": "realtime.item", "status": "completed"} | item
        before = self._conversation.add(item, event.previous_item_id, event.event_id)
        await self._emit("conversation.item.added", previous_item_id=before, item=item)
        await self._emit("conversation.item.done", previous_item_id=before, item=item)

    # To the client.

    async def send(self, event: Outgoing) -> None:
        if isinstance(event, AgentAudio):
            await self._say(event)
        elif isinstance(event, AgentText):
            await self._write(event)
        elif isinstance(event, CallerStarted):
            await self._emit("input_audio_buffer.speech_started", audio_start_ms=event.at_ms, item_id=self._turn_id)
        elif isinstance(event, CallerStopped):
            await self._emit("input_audio_buffer.speech_stopped", audio_end_ms=event.at_ms, item_id=self._turn_id)
        elif isinstance(event, TurnCommitted):
            await self._commit(event)
        elif isinstance(event, CallerText):
            await self._understand(event.text)
        elif isinstance(event, CallerTextDone):
            await self._finish_turn()
        elif isinstance(event, AnswerStarted):
            await self._begin()
        elif isinstance(event, AnswerEnded):
            await self._end(event)
        elif isinstance(event, Action):
            await self._emit("s2s.action", name=event.name, at_ms=event.at_ms)
        elif isinstance(event, Problem):
            await self._error(event.code, event.message, None, self._wish_id)
        elif event.reason != "agent_hangup":
            kind = "server_error" if event.reason in ("failed", "server_shutdown") else "invalid_request_error"
            await self._error(_ERROR_CODES.get(event.reason, event.reason), event.message, kind=kind)

    async def clear(self) -> None:
        """Audio goes out as it is made and the client holds what it has not played: speech_started tells it."""

    async def close(self, ended: CallEnded | None = None) -> None:
        if ended is None:
            await self._socket.close()
            return
        try:
            await self.send(ended)
        except ConnectionError:
            return
        await self._socket.close(_CLOSE_CODES[ended.reason], ended.reason)

    # The caller's turns.

    async def _commit(self, event: TurnCommitted) -> None:
        if not event.duration_ms:
            await self._error(
                "input_audio_buffer_commit_empty", "no audio came since the last turn", None, self._wish_id
            )
            return
        self._seconds[0] += event.duration_ms / 1000
        content = {"type": "input_audio", "transcript": None}
        item = {
            "id": self._turn_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [content],
        }
        before = self._conversation.last_id
        await self._emit("input_audio_buffer.committed", previous_item_id=before, item_id=self._turn_id)
        self._conversation.add(item)
        await self._emit("conversation.item.added", previous_item_id=before, item=item)
        await self._emit("conversation.item.done", previous_item_id=before, item=item)
        self._open_turn, self._turn_id = item, new_id("item")
        heard, self._heard = self._heard, ""
        if heard:
            await self._understand(heard)

    async def _understand(self, text: str) -> None:
        if self._open_turn is None:
            self._heard = (self._heard + text)[-2000:]
            return
        content = self._open_turn["content"][0]
        content["transcript"] = (content["transcript"] or "") + text
        if self.settings.transcribes:
            ids = {"item_id": self._open_turn["id"], "content_index": 0}
            await self._emit("conversation.item.input_audio_transcription.delta", **ids, delta=text)

    async def _finish_turn(self) -> None:
        turn, self._open_turn = self._open_turn, None
        if turn is not None and self.settings.transcribes:
            transcript = (turn["content"][0]["transcript"] or "").strip()
            usage = {"type": "duration", "seconds": round(self._seconds[0], 3)}
            kind = "conversation.item.input_audio_transcription.completed"
            await self._emit(kind, item_id=turn["id"], content_index=0, transcript=transcript, usage=usage)

    # The agent's answers.

    async def _begin(self) -> None:
        options, self._options = self._options, None
        wanted = (options.output_modalities or options.modalities) if options else None
        text_only = self.settings.text_only if wanted is None else wanted == ["text"]
        self._answer = Answer(text_only=text_only, metadata=options.metadata if options else None)
        await self._emit("response.created", response=self._response(self._answer, "in_progress"))

    async def _open_item(self, answer: Answer) -> None:
        """Tell of the item with its first sound or word: an answer asked for may never come."""
        answer.opened = True
        item = self._item(answer, "in_progress", [])
        answer.before_id = self._conversation.add(item)
        ids = {"response_id": answer.id, "output_index": 0}
        await self._emit("response.output_item.added", **ids, item=item)
        await self._emit("conversation.item.added", previous_item_id=answer.before_id, item=item)
        part = {"type": "text", "text": ""} if answer.text_only else {"type": "audio", "transcript": ""}
        await self._emit("response.content_part.added", **self._ids(answer), part=part)

    async def _say(self, event: AgentAudio) -> None:
        answer = self._answer
        if answer is None or not event.answering:
            return
        self._spoke = True
        answer.sent_ms += event.end_ms - event.start_ms
        if answer.text_only:
            return
        if not answer.opened:
            await self._open_item(answer)
        await self._emit("response.output_audio.delta", **self._ids(answer), delta=encode_base64(event.data))

    async def _write(self, event: AgentText) -> None:
        answer = self._answer
        if answer is None:
            return
        if not answer.opened:
            await self._open_item(answer)
        answer.texts.append((event.text, event.offset_ms))
        kind = "response.output_text.delta" if answer.text_only else "response.output_audio_transcript.delta"
        await self._emit(kind, **self._ids(answer), delta=event.text)

    async def _end(self, event: AnswerEnded) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        completed = event.reason == "completed"
        played_ms = min(event.played_ms, answer.sent_ms)
        self._seconds[1] += played_ms / 1000
        status = "completed" if completed else "cancelled"
        if answer.opened:
            if not completed:  # history is what was played
                answer.texts = [(text, at_ms) for text, at_ms in answer.texts if at_ms < played_ms]
            await self._end_item(answer, "completed" if completed else "incomplete")
        details = {"type": status} | ({} if completed else {"reason": event.reason})
        await self._emit("response.done", response=self._response(answer, status, details))

    async def _end_item(self, answer: Answer, status: str) -> None:
        ids, text = self._ids(answer), answer.text()
        if answer.text_only:
            await self._emit("response.output_text.done", **ids, text=text)
            part = {"type": "text", "text": text}
        else:
            await self._emit("response.output_audio.done", **ids)
            await self._emit("response.output_audio_transcript.done", **ids, transcript=text)
            part = {"type": "audio", "transcript": text}
        await self._emit("response.content_part.done", **ids, part=part)
        try:
            item = self._conversation.get(answer.item_id)
        except ProtocolError:  # the client has deleted it meanwhile
            item = self._item(answer, status, [])
        item |= {"status": status, "content": self._content(answer)}
        self._conversation.remember(answer)
        await self._emit("response.output_item.done", response_id=answer.id, output_index=0, item=item)
        if status == "completed":  # clients take an item's done event for its being said to the end
            await self._emit("conversation.item.done", previous_item_id=answer.before_id, item=item)

    def _ids(self, answer: Answer) -> dict[str, Any]:
        return {"response_id": answer.id, "item_id": answer.item_id, "output_index": 0, "content_index": 0}

    def _content(self, answer: Answer) -> list[dict[str, Any]]:
        if answer.text_only:
            return [{"type": "output_text", "text": answer.text()}]
        return [{"type": "output_audio", "transcript": answer.text()}]

    def _item(self, answer: Answer, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        kind = {"id": answer.item_id, "object": "realtime.item", "type": "message", "role": "assistant"}
        return kind | {"status": status, "content": content}

    def _response(self, answer: Answer, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        final = "completed" if status == "completed" else "incomplete"
        output = self.settings.values["audio"]["output"]
        return {
            "id": answer.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [self._item(answer, final, self._content(answer))] if details and answer.opened else [],
            "conversation_id": self._conversation.id,
            "output_modalities": ["text"] if answer.text_only else ["audio"],
            "audio": {"output": {"format": output["format"], "voice": output["voice"]}},
            "max_output_tokens": self.settings.values["max_output_tokens"],
            "metadata": answer.metadata,
            "usage": self._usage(answer) if details else None,
        }

    def _usage(self, answer: Answer) -> dict[str, Any]:
        """Tokens as the protocol counts them: one per 100 ms heard, one per 50 ms said, one per piece of text."""
        heard, said, texts = round(10 * self._seconds[0]), answer.sent_ms // 50, len(answer.texts)
        return {
            "total_tokens": heard + said + texts,
            "input_tokens": heard,
            "output_tokens": said + texts,
            "input_token_details": {"audio_tokens": heard, "text_tokens": 0, "cached_tokens": 0},
            "output_token_details": {"audio_tokens": said, "text_tokens": texts},
        }

    async def _emit(self, kind: str, **values: Any) -> None:
        event = self.settings.event(kind, values)
        if event is not None:
            await self._socket.send(event)

    async def _error(
        self,
        code: str,
        message: str,
        param: str | None = None,
        event_id: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        error = {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id}
        await self._emit("error", error=error)


_ERROR_CODES = {"expired": "session_expired", "failed": "session_failed"}
