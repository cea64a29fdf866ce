"""What a client of the OpenAI Realtime protocol may say, in both dialects: today's (GA) and the preview's (beta)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from s2s.gateway.formats import WireFormat
from s2s.gateway.messages import Free, Message, Part, ProtocolError, parse, validate
from s2s.gateway.turns import TurnDetection

Dialect = Literal["ga", "beta"]
Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)]
MaxTokens = Annotated[int, Field(ge=1, le=4096)] | Literal["inf"]


class SessionUpdate(Message):
    type: Literal["session.update"]
    session: dict[str, Any]


class Append(Message):
    type: Literal["input_audio_buffer.append"]
    audio: str


class Commit(Message):
    type: Literal["input_audio_buffer.commit"]


class Clear(Message):
    type: Literal["input_audio_buffer.clear"]


class ItemCreate(Message):
    type: Literal["conversation.item.create"]
    item: dict[str, Any]
    previous_item_id: str | None = None


class ItemRetrieve(Message):
    type: Literal["conversation.item.retrieve"]
    item_id: str


class ItemDelete(Message):
    type: Literal["conversation.item.delete"]
    item_id: str


class ItemTruncate(Message):
    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: Annotated[int, Field(ge=0)]
    audio_end_ms: Annotated[int, Field(ge=0)]


class AnswerOptions(Part):
    output_modalities: Modalities | None = None
    modalities: Modalities | None = None  # beta
    metadata: dict[str, str] | None = None
    conversation: str | None = None


class ResponseCreate(Message):
    type: Literal["response.create"]
    response: AnswerOptions | None = None


class ResponseCancel(Message):
    type: Literal["response.cancel"]
    response_id: str | None = None


class OutputClear(Message):
    type: Literal["output_audio_buffer.clear"]


ClientEvent = (
    SessionUpdate
    | Append
    | Commit
    | Clear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | OutputClear
)
_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


def parse_event(text: str | bytes) -> ClientEvent:
    """Raises ProtocolError for everything that is no event."""
    event: ClientEvent = parse(_EVENT, text)
    return event


# Items.


class Content(Part):
    type: str
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None
    image_url: str | None = None


class MessageItem(Part):
    type: Literal["message"]
    id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    role: Literal["user", "assistant", "system"]
    content: list[Content]


class CallItem(Part):
    type: Literal["function_call"]
    id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    call_id: str | None = None
    name: str
    arguments: str


class CallOutputItem(Part):
    type: Literal["function_call_output"]
    id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    call_id: str
    output: str


_ITEM: TypeAdapter[MessageItem | CallItem | CallOutputItem] = TypeAdapter(
    Annotated[MessageItem | CallItem | CallOutputItem, Field(discriminator="type")]
)


def parse_item(item: dict[str, Any], event_id: str | None = None) -> dict[str, Any]:
    """A conversation item as plain values, without what it leaves out."""
    found: dict[str, Any] = validate(_ITEM, item, "item", event_id).model_dump(exclude_none=True)
    return found


# Sessions. Both dialects become one form, that of GA.


class Format(Part):
    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: int | None = None


class Detection(Part):
    type: Literal["server_vad", "semantic_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    prefix_padding_ms: Annotated[int, Field(ge=0, le=10000)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=0, le=60000)] | None = None
    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: Annotated[int, Field(ge=0)] | None = None


class Transcription(Part):
    model: str | None = None
    language: str | None = None
    prompt: str | None = None


class Reduction(Part):
    type: Literal["near_field", "far_field"] | None = None


class AudioInput(Part):
    format: Format | None = None
    transcription: Transcription | None = None
    noise_reduction: Reduction | None = None
    turn_detection: Detection | None = None


class Voice(Part):
    id: str


class AudioOutput(Part):
    format: Format | None = None
    voice: str | Voice | None = None
    speed: Annotated[float, Field(ge=0.25, le=1.5)] | None = None


class Audio(Part):
    input: AudioInput | None = None
    output: AudioOutput | None = None


class Tool(Part):
    """Kept and shown; the model calls none."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: Free | None = None


class ToolName(Part):
    type: Literal["function"]
    name: str


class Tracing(Part):
    group_id: str | None = None
    workflow_name: str | None = None
    metadata: Free | None = None


class Truncation(Part):
    type: Literal["retention_ratio"]
    retention_ratio: Annotated[float, Field(ge=0, le=1)]


class Prompt(Part):
    id: str
    version: str | None = None
    variables: dict[str, str] | None = None


class Shared(Part):
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolName | None = None
    tracing: Literal["auto"] | Tracing | None = None
    recording_consent: bool | None = None  # ours: the caller agrees to be recorded
    opening: bool | None = None  # ours: the agent speaks first; heard in the client's first event only


class GaSession(Shared):
    type: Literal["realtime"] = "realtime"
    output_modalities: Modalities | None = None
    audio: Audio | None = None
    max_output_tokens: MaxTokens | None = None
    truncation: Literal["auto", "disabled"] | Truncation | None = None
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None
    prompt: Prompt | None = None


class BetaSession(Shared):
    modalities: Modalities | None = None
    voice: str | None = None
    speed: Annotated[float, Field(ge=0.25, le=1.5)] | None = None
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] | None = None
    output_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] | None = None
    input_audio_transcription: Transcription | None = None
    input_audio_noise_reduction: Reduction | None = None
    turn_detection: Detection | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    max_response_output_tokens: MaxTokens | None = None


BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_BETA_ONLY = (set(BetaSession.model_fields) - set(GaSession.model_fields)) - {"model"}


def dialect_of(session: dict[str, Any]) -> Dialect | None:
    """What the shape of a `session.update` says about its dialect, if anything."""
    if "type" in session or "audio" in session or "output_modalities" in session:
        return "ga"
    return "beta" if _BETA_ONLY & set(session) else None


def parse_session(session: dict[str, Any], dialect: Dialect, event_id: str | None = None) -> dict[str, Any]:
    """The settings that a `session.update` gives, in GA form."""
    model = GaSession if dialect == "ga" else BetaSession
    given: dict[str, Any] = validate(model, session, "session", event_id).model_dump(exclude_unset=True)
    if dialect == "beta":
        given = _to_ga(given)
    elif (modalities := given.get("output_modalities")) is not None and len(modalities) != 1:
        raise ProtocolError("invalid_value", "allowed is ['audio'] or ['text']", "session.output_modalities", event_id)
    for side in ("input", "output"):
        part = (given.get("audio") or {}).get(side) or {}
        if part.get("format"):
            part["format"] = format_to_json(wire_format(part["format"], f"session.audio.{side}.format", event_id))
    return given


def _to_ga(given: dict[str, Any]) -> dict[str, Any]:
    audio: dict[str, dict[str, Any]] = {"input": {}, "output": {}}
    places = {
        "input_audio_format": ("input", "format"),
        "input_audio_transcription": ("input", "transcription"),
        "input_audio_noise_reduction": ("input", "noise_reduction"),
        "turn_detection": ("input", "turn_detection"),
        "output_audio_format": ("output", "format"),
        "voice": ("output", "voice"),
        "speed": ("output", "speed"),
    }
    for key, (side, name) in places.items():
        if key in given:
            value = given.pop(key)
            audio[side][name] = {"type": BETA_FORMATS[value]} if name == "format" and value else value
    if "modalities" in given:
        modalities = given.pop("modalities")
        given["output_modalities"] = ["audio"] if "audio" in modalities else ["text"]
    if "max_response_output_tokens" in given:
        given["max_output_tokens"] = given.pop("max_response_output_tokens")
    return given | {"audio": audio}


def wire_format(value: dict[str, Any], path: str, event_id: str | None = None) -> WireFormat:
    """Raises ProtocolError for a rate that the format does not have."""
    kind, rate = value["type"], value.get("rate")
    if kind == "audio/pcm":
        if rate not in (None, 24000):
            raise ProtocolError("invalid_value", f"{path}.rate is {rate}, allowed is 24000", f"{path}.rate", event_id)
        return WireFormat("pcm16", 24000)
    if rate not in (None, 8000):
        raise ProtocolError("invalid_value", f"{path}.rate is {rate}, allowed is 8000", f"{path}.rate", event_id)
    return WireFormat("mulaw" if kind == "audio/pcmu" else "alaw", 8000)


def format_to_json(wire: WireFormat) -> dict[str, Any]:
    if wire.encoding == "pcm16":
        return {"type": "audio/pcm", "rate": wire.rate}
    return {"type": "audio/pcmu" if wire.encoding == "mulaw" else "audio/pcma"}


# How long a pause may be before a turn counts as over.
_EAGERNESS_MS = {"low": 1500, "medium": 700, "auto": 700, "high": 400}


def turn_detection(value: dict[str, Any] | None) -> TurnDetection | None:
    """What a session's `turn_detection` means to us."""
    if value is None:
        return None
    default, interrupts = TurnDetection(), value.get("interrupt_response")
    if value["type"] == "semantic_vad":
        silence_ms = _EAGERNESS_MS[value.get("eagerness") or "auto"]
        return TurnDetection(silence_duration_ms=silence_ms, interrupt_response=interrupts is not False, patient=True)

    def given(key: str) -> Any:
        return getattr(default, key) if value.get(key) is None else value[key]

    return TurnDetection(
        given("threshold"), given("prefix_padding_ms"), given("silence_duration_ms"), interrupts is not False
    )
