"""A Realtime session's settings, and how each dialect writes sessions, items and events."""

from __future__ import annotations

import copy
import time
from typing import Any

from s2s.gateway.base import Configure
from s2s.gateway.messages import new_id
from s2s.gateway.realtime_events import BETA_FORMATS, Dialect, turn_detection, wire_format

_NO_LIMIT_S = 365 * 24 * 3600  # what `expires_at` says of calls that may last for ever

# Names that the preview used for today's events.
_BETA_NAMES = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "conversation.item.added": "conversation.item.created",
}
_BETA_UNKNOWN = {"conversation.item.done"}
_BETA_CONTENT = {"output_text": "text", "output_audio": "audio"}


class RealtimeSettings:
    """What `session.update` changes, in the form of GA."""

    def __init__(
        self, session_id: str, model: str, dialect: Dialect, max_call_s: float | None = None, opening: bool = True
    ):
        self.dialect, self.opening = dialect, opening
        self.consent = False
        self.id = f"sess_{session_id}"
        self.values: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": self.id,
            "model": model,
            "expires_at": round(time.time() + (max_call_s or _NO_LIMIT_S)),
            "output_modalities": ["audio"],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "tracing": None,
            "truncation": "auto",
            "prompt": None,
            "include": None,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "transcription": {"model": model},
                    "noise_reduction": None,
                    "turn_detection": _with_defaults({"type": "server_vad"}),
                },
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "agent", "speed": 1.0},
            },
        }

    @property
    def text_only(self) -> bool:
        return bool(self.values["output_modalities"] == ["text"])

    @property
    def transcribes(self) -> bool:
        return self.values["audio"]["input"]["transcription"] is not None

    @property
    def voice(self) -> Any:
        return self.values["audio"]["output"]["voice"]

    def update(self, given: dict[str, Any]) -> None:
        """Take what `parse_session` found: objects below `audio.input` and `audio.output` are replaced whole."""
        given = copy.deepcopy(given)
        self.consent = bool(given.pop("recording_consent", self.consent))
        opening = given.pop("opening", None)
        self.opening = self.opening if opening is None else opening
        audio = given.pop("audio", None) or {}
        for key in ("type", "object", "id"):
            given.pop(key, None)
        self.values.update(given)
        for side in ("input", "output"):
            values = self.values["audio"][side]
            values.update(audio.get(side) or {})
            values["format"] = values["format"] or {"type": "audio/pcm", "rate": 24000}
        if (audio.get("input") or {}).get("turn_detection"):
            values = self.values["audio"]["input"]
            values["turn_detection"] = _with_defaults(values["turn_detection"])
        if self.values["output_modalities"] is None:
            self.values["output_modalities"] = ["audio"]

    def configure(self) -> Configure:
        audio = self.values["audio"]
        return Configure(
            wire_format(audio["input"]["format"], "session.audio.input.format"),
            wire_format(audio["output"]["format"], "session.audio.output.format"),
            turn_detection(audio["input"]["turn_detection"]),
        )

    def to_json(self) -> dict[str, Any]:
        values = copy.deepcopy(self.values) | {"recording_consent": self.consent, "opening": self.opening}
        return values if self.dialect == "ga" else _beta_session(values)

    def event(self, kind: str, values: dict[str, Any]) -> dict[str, Any] | None:
        """An event as this connection's dialect writes it; None where the dialect has none."""
        if self.dialect == "beta":
            if kind in _BETA_UNKNOWN:
                return None
            kind = _BETA_NAMES.get(kind, kind)
            values = {key: _beta_value(key, value) for key, value in values.items()}
        return {"type": kind, "event_id": new_id("event"), **values}


def _with_defaults(detection: dict[str, Any]) -> dict[str, Any]:
    """A turn detection object with every key it has in the documents."""
    values: dict[str, Any] = {"create_response": True, "interrupt_response": True}
    if detection["type"] == "server_vad":
        values |= {"threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500, "idle_timeout_ms": None}
    else:
        values |= {"eagerness": "auto"}
    return values | {key: value for key, value in detection.items() if value is not None}


def _beta_session(values: dict[str, Any]) -> dict[str, Any]:
    audio = values.pop("audio")
    names = {kind: name for name, kind in BETA_FORMATS.items()}
    for key in ("type", "truncation", "prompt", "include"):
        values.pop(key)
    text_only = values.pop("output_modalities") == ["text"]
    return values | {
        "modalities": ["text"] if text_only else ["audio", "text"],
        "max_response_output_tokens": values.pop("max_output_tokens"),
        "input_audio_format": names[audio["input"]["format"]["type"]],
        "output_audio_format": names[audio["output"]["format"]["type"]],
        "input_audio_transcription": audio["input"]["transcription"],
        "input_audio_noise_reduction": audio["input"]["noise_reduction"],
        "turn_detection": audio["input"]["turn_detection"],
        "voice": audio["output"]["voice"],
        "speed": audio["output"]["speed"],
    }


def _beta_value(key: str, value: Any) -> Any:
    if key == "item":
        return _beta_item(value)
    if key == "response":
        value = dict(value)
        modalities, audio = value.pop("output_modalities"), value.pop("audio", {})
        output = audio.get("output", {})
        names = {kind: name for name, kind in BETA_FORMATS.items()}
        return value | {
            "output": [_beta_item(item) for item in value["output"]],
            "modalities": ["text"] if modalities == ["text"] else ["audio", "text"],
            "voice": output.get("voice"),
            "output_audio_format": names[output["format"]["type"]] if "format" in output else None,
        }
    return value


def _beta_item(item: dict[str, Any]) -> dict[str, Any]:
    if "content" not in item:
        return item
    content = [part | {"type": _BETA_CONTENT.get(part["type"], part["type"])} for part in item["content"]]
    return item | {"content": content}
