"""Whatever a client sends, a parser gives an event or a ProtocolError, and settings stay what clients understand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.realtime import RealtimeSessionCreateRequest

from s2s.gateway import live_events, realtime_events
from s2s.gateway.conversation import Answer, Conversation
from s2s.gateway.messages import ProtocolError, decode_base64
from s2s.gateway.realtime_events import dialect_of, parse_item, parse_session, turn_detection
from s2s.gateway.realtime_session import RealtimeSettings

PARSERS: list[Callable[[str | bytes], Any]] = [realtime_events.parse_event, live_events.parse_event]
TYPES = [
    "session.update", "session.start", "session.close", "session.input_audio.append", "session.thinking.append",
    "input_audio_buffer.append", "input_audio_buffer.commit", "conversation.item.create", "conversation.item.truncate",
    "conversation.item.delete", "response.create", "response.cancel", "error", "",
]  # fmt: skip
KEYS = [
    "type", "event_id", "session", "audio", "item", "item_id", "content_index", "audio_end_ms", "response", "input",
    "output", "format", "rate", "turn_detection", "model", "instructions", "content", "role", "voice", "modalities",
    "output_modalities", "input_audio_format", "tools", "tool_choice", "tracing", "truncation",
    "prompt", "id", "name", "threshold", "previous_item_id", "delegation", "store",
]  # fmt: skip
VALUES = [
    "function",
    "retention_ratio",
    "audio/pcm",
    "audio/pcmu",
    "realtime",
    "server_vad",
    "semantic_vad",
    "message",
    "user",
    "pcm16",
    "client",
]

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(VALUES)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)
messages = st.tuples(st.sampled_from(TYPES), objects).map(lambda pair: {**pair[1], "type": pair[0]})


@settings(max_examples=80)
@given(st.sampled_from(PARSERS), st.text(max_size=60) | st.binary(max_size=60) | messages.map(json.dumps))
def test_any_bytes_are_an_event_or_a_protocol_error(parse: Callable[[str | bytes], Any], text: str | bytes) -> None:
    with contextlib.suppress(ProtocolError):
        event = parse(text)
        assert event.type in (text if isinstance(text, str) else text.decode())


@settings(max_examples=80)
@given(st.lists(st.tuples(objects, st.sampled_from(["ga", "beta"])), max_size=3))
def test_any_updates_leave_settings_that_clients_understand(updates: list[tuple[dict[str, Any], Any]]) -> None:
    state = RealtimeSettings("x", "m", "ga")
    for update, dialect in updates:
        dialect_of(update)
        try:
            given_values = parse_session(update, dialect)
        except ProtocolError:
            continue
        state.update(given_values)
    RealtimeSessionCreateRequest.model_validate(state.to_json())
    json.dumps(state.to_json(), allow_nan=False)
    state.configure()
    state.dialect = "beta"
    json.dumps(state.to_json(), allow_nan=False)


@settings(max_examples=60)
@given(objects)
def test_any_item_is_an_item_or_a_protocol_error(item: dict[str, Any]) -> None:
    with contextlib.suppress(ProtocolError):
        assert parse_item(item)["type"] in ("message", "function_call", "function_call_output")


@given(st.text(max_size=40))
def test_any_text_is_base64_or_a_protocol_error(text: str) -> None:
    with contextlib.suppress(ProtocolError):
        assert decode_base64(text) is not None


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        ('{"a": NaN', "invalid_json"),
        ("[]", "invalid_value"),
        ("null", "invalid_value"),
        ("{}", "missing_type"),
        ('{"type": 5}', "unknown_event"),
        ('{"type": "nonsense"}', "unknown_event"),
    ],
)
def test_what_is_no_event(parse: Callable[[str | bytes], Any], text: str | bytes, code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(text)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "session",
    [
        {"tools": [{"type": "function", "name": "f", "parameters": {"a": [1e999]}}]},
        {"tools": [{"type": False}]},
        {"tool_choice": "perhaps"},
        {"audio": {"output": {"speed": 1e999}}},
    ],
)
def test_settings_that_no_client_would_understand(session: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="session"):
        parse_session(json.loads(json.dumps(session)), "ga")


def test_errors_name_the_key_and_the_event() -> None:
    event = {"type": "conversation.item.truncate", "item_id": "i", "content_index": 0, "audio_end_ms": -1}
    with pytest.raises(ProtocolError) as caught:
        realtime_events.parse_event(json.dumps(event | {"event_id": "mine"}))
    assert (caught.value.param, caught.value.event_id) == ("audio_end_ms", "mine")
    with pytest.raises(ProtocolError) as caught:
        parse_session({"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}}, "ga", "mine")
    assert caught.value.param is not None and caught.value.param.endswith("threshold")
    start = {"type": "session.start", "event_id": "mine", "session": {"model": "m", "colour": "red"}}
    with pytest.raises(ProtocolError) as caught:
        live_events.parse_event(json.dumps(start))
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "session.colour")


def test_updates_merge_and_both_dialects_mean_the_same() -> None:
    ga, beta = RealtimeSettings("x", "m", "ga"), RealtimeSettings("x", "m", "beta")
    detection = {"type": "server_vad", "silence_duration_ms": 300, "interrupt_response": False}
    ga.update(parse_session({"audio": {"input": {"turn_detection": detection}}}, "ga"))
    ga.update(parse_session({"audio": {"output": {"format": {"type": "audio/pcmu"}}}}, "ga"))
    beta.update(parse_session({"turn_detection": detection, "output_audio_format": "g711_ulaw"}, "beta"))
    assert ga.configure() == beta.configure()
    found = ga.configure().turn_detection
    assert found is not None and (found.silence_duration_ms, found.interrupt_response) == (300, False)
    assert ga.values["audio"]["input"]["turn_detection"]["threshold"] == 0.5, "what is not given has its default"
    ga.update(parse_session({"audio": {"input": {"turn_detection": None, "format": None}}}, "ga"))
    assert ga.configure().turn_detection is None
    assert beta.to_json()["output_audio_format"] == "g711_ulaw"


def test_eagerness_is_how_long_a_pause_may_be() -> None:
    pauses = [turn_detection({"type": "semantic_vad", "eagerness": eager}) for eager in ("low", "auto", "high")]
    lengths = [found.silence_duration_ms for found in pauses if found is not None]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 3


def test_history_keeps_order_and_size() -> None:
    def item(name: str, size: int = 0) -> dict[str, Any]:
        return {"id": name, "content": [{"type": "output_audio", "transcript": "x" * size}]}

    history = Conversation(max_bytes=1000)
    assert [history.add(item("b")), history.add(item("c")), history.add(item("a"), "root")] == [None, "b", None]
    assert history.add(item("bb"), "b") == "b" and history.last_id == "c"
    history.add(item("big", 900))
    with pytest.raises(ProtocolError, match="there is no item 'a'"):
        history.get("a")
    answer = Answer(item_id="big", texts=[("one ", 0), ("two ", 100), ("three", 200)], sent_ms=300)
    history.remember(answer)
    history.truncate("big", 0, 150, None)
    assert history.get("big")["content"][0]["transcript"] == "one two "
    for index, until in ((1, 100), (0, 151)):
        with pytest.raises(ProtocolError):
            history.truncate("big", index, until, None)
