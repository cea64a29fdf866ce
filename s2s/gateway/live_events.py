"""What a client of the GPT-Live protocol may say. Its configs are strict: an unknown key is a mistake."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from s2s.gateway.formats import WireFormat
from s2s.gateway.messages import Message, parse

MAX_ITEMS = 128
MAX_INSTRUCTIONS = 64 << 10  # characters; the protocol's 16,384 tokens are at most about this
MAX_CONTEXT = 4 << 10  # characters of one append; the protocol allows 500 tokens


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Pcm(Strict):
    type: Literal["audio/pcm"]
    rate: Literal[16000, 24000] = 24000


class Pcmu(Strict):
    type: Literal["audio/pcmu"]
    rate: Literal[8000] = 8000


class Pcma(Strict):
    type: Literal["audio/pcma"]
    rate: Literal[8000] = 8000


class Voice(Strict):
    id: str


class Output(Strict):
    voice: str | Voice | None = None


class Audio(Strict):
    format: Annotated[Pcm | Pcmu | Pcma, Field(discriminator="type")] | None = None
    output: Output | None = None


class Content(Strict):
    type: Literal["input_text", "output_text", "text"] | None = None
    text: str


class InitialItem(Strict):
    type: Literal["message"] | None = None
    id: str | None = None
    role: Literal["developer", "user", "assistant"]
    status: Literal["incomplete", "completed"] | None = None
    content: list[Content]


class Delegation(Strict):
    """Tasks are the client's; we run no other model that could take them."""

    type: Literal["client"]
    acknowledgement_delay_ms: Annotated[int, Field(ge=0)] | None = None


class SessionConfig(Strict):
    """`store` is the caller's consent to a recording, where the server makes any.

    `opening` is ours: whether the agent speaks first; the server's default where it is left out.
    """

    model: str
    audio: Audio | None = None
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    input: Annotated[list[InitialItem], Field(max_length=MAX_ITEMS)] | None = None
    delegation: Delegation | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    opening: bool | None = None


class SessionPatch(Strict):
    delegation: Delegation | None = None


class Start(Message):
    type: Literal["session.start"]
    session: SessionConfig


class Update(Message):
    type: Literal["session.update"]
    session: SessionPatch


class Append(Message):
    type: Literal["session.input_audio.append"]
    audio: str


class MuteInput(Message):
    type: Literal["session.input_audio.mute"]


class UnmuteInput(Message):
    type: Literal["session.input_audio.unmute"]


class Context(Message):
    """Text for the model: instructions and thinking are silent, commentary is to be spoken."""

    type: Literal["session.instructions.append", "session.thinking.append", "session.commentary.append"]
    content: Annotated[str, Field(max_length=MAX_CONTEXT)]
    delegation_id: str | None = None


class Unsupported(Message):
    """Events of the protocol that need another model beside ours, or another connection."""

    type: Literal[
        "session.output_audio.fixture.play",
        "response.item.create",
        "response.create",
        "decision.create",
        "decision.item.create",
        "decision.item.delete",
        "transport.dtmf.send",
    ]


class Close(Message):
    type: Literal["session.close"]


ClientEvent = Start | Update | Append | MuteInput | UnmuteInput | Context | Unsupported | Close
_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


def parse_event(text: str | bytes) -> ClientEvent:
    """Raises ProtocolError for everything that is no event."""
    event: ClientEvent = parse(_EVENT, text)
    return event


def wire_format(audio: Audio | None) -> WireFormat:
    if audio is None or audio.format is None or isinstance(audio.format, Pcm):
        return WireFormat("pcm16", audio.format.rate if audio and audio.format else 24000)
    return WireFormat("mulaw" if isinstance(audio.format, Pcmu) else "alaw", 8000)


def format_to_json(wire: WireFormat) -> dict[str, Any]:
    kind = {"pcm16": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}[wire.encoding]
    return {"type": kind, "rate": wire.rate}
