"""Messages of clients, checked: JSON text -> a pydantic model, or a ProtocolError that says what is wrong where."""

from __future__ import annotations

import base64
import binascii
import json
import math
import uuid
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError


class ProtocolError(ValueError):
    """A mistake of the client; the call goes on. `event_id` is that of the client's message, if it gave one."""

    def __init__(self, code: str, message: str, param: str | None = None, event_id: str | None = None):
        super().__init__(message)
        self.code, self.message, self.param, self.event_id = code, message, param, event_id


class Message(BaseModel):
    """Any message of a client; keys that we do not know are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    event_id: str | None = None


class Part(BaseModel):
    """Any object inside a message."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no infinity, but `1e999` is one, and what is kept is sent back."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(inner)
    return value


Free = Annotated[dict[str, Any], AfterValidator(_finite)]
"""An object of whatever keys."""


def parse(adapter: TypeAdapter[Any], text: str | bytes) -> Any:
    """Validate one message. Whatever the bytes are, the only error is ProtocolError."""
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise _explain(error, _event_id(text)) from None
    except (RecursionError, UnicodeError):
        raise ProtocolError("invalid_json", "the message is not JSON") from None


def validate(model: type[BaseModel] | TypeAdapter[Any], value: Any, path: str, event_id: str | None = None) -> Any:
    """Validate a part of a message that stands at `path`."""
    try:
        return model.validate_python(value) if isinstance(model, TypeAdapter) else model.model_validate(value)
    except ValidationError as error:
        raise _explain(error, event_id, path) from None


def decode_base64(text: str, event_id: str | None = None) -> bytes:
    """Raises ProtocolError for anything but base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError("invalid_base64", "the audio is not base64", "audio", event_id) from None


def encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def _explain(error: ValidationError, event_id: str | None, path: str = "") -> ProtocolError:
    first = error.errors(include_url=False, include_input=False)[0]
    kind, message = first["type"], first["msg"]
    if kind == "json_invalid":
        return ProtocolError("invalid_json", f"the message is not JSON: {message}", None, event_id)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        inside = path or ".".join(str(key) for key in first["loc"])
        if inside:
            return ProtocolError("invalid_value", f"{inside}: {message}", inside, event_id)
        code = "unknown_event" if kind == "union_tag_invalid" else "missing_type"
        return ProtocolError(code, message, "type", event_id)
    # The first key of a discriminated union's location is its tag, which is no key of the message.
    keys = [str(key) for key in first["loc"]]
    if not path and keys and ("." in keys[0] or keys[0] == first.get("ctx", {}).get("tag")):
        keys = keys[1:]
    where = ".".join([path, *keys] if path else keys) or None
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}.get(kind, "invalid_value")
    return ProtocolError(code, f"{where}: {message}" if where else message, where, event_id)


def _event_id(text: str | bytes) -> str | None:
    """The id of a message that is wrong somewhere else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = value.get("event_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None
