"""/v1/realtime with the official client over a real socket, all calls at once on one server."""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from s2s.audio.pcm import alaw_decode, alaw_encode, float_to_int16, int16_to_float, mulaw_decode, mulaw_encode
from s2s.audio.resample import resample
from s2s.gateway.server import ServerConfig
from s2s.models.scripted import Script, ScriptedStep
from s2s.text import ByteTokenizer
from tests.gateway.calls import Call, check, converse, encode, in_order, raw, realtime, speak
from tests.gateway.serving import RATE, Served, serving, silence, speech

SAID, HEARD = "your money comes back within a few days", "refund please"
ANSWER_S = 1.6  # about a letter per step of 40 ms
ANSWER = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(ANSWER_S * RATE)) / RATE).astype(np.float32)
Talk = Callable[[Served, Any, Call], Awaitable[None]]
QUESTION = speech()[: round(0.8 * RATE)]


def script(yield_after_s: float | None = None) -> ScriptedStep:
    tokenizer = ByteTokenizer()
    text = {"agent_text": tokenizer.encode(SAID), "user_text": tokenizer.encode(HEARD)}
    return ScriptedStep(Script(torch.from_numpy(ANSWER), delay_s=0.4, yield_after_s=yield_after_s, text=text))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(script(), ServerConfig(model="scripted"), max_sessions=16, tokenizer=ByteTokenizer()) as server:
        yield server


def append(connection: Any) -> Any:
    async def send(audio: str) -> None:
        await connection.input_audio_buffer.append(audio=audio)

    return send


def question_then(*parts: np.ndarray, law: Any = None, rate: int = RATE, tail_s: float = 2.8) -> Talk:
    """Ask, then say `parts`, then be silent until the answer is over."""

    async def talk(served: Served, connection: Any, call: Call) -> None:
        pcm = np.concatenate([silence(0.2), QUESTION, *parts, silence(tail_s)])
        if rate != RATE:
            pcm = float_to_int16(resample(int16_to_float(pcm), RATE, rate))
        await speak(served, call, append(connection), raw(pcm, law, rate // 25), rate if law else 2 * RATE)
        await call.until("response.done")
        await call.until("conversation.item.input_audio_transcription.completed")

    return talk


def updated(session: dict[str, Any], talk: Talk) -> Talk:
    """Say `session.update` first."""

    async def both(served: Served, connection: Any, call: Call) -> None:
        await connection.send({"type": "session.update", "session": session})
        await call.until("session.updated")
        await talk(served, connection, call)

    return both


async def manual(served: Served, connection: Any, call: Call) -> None:
    """The client ends the turns: a recording faster than time, committed, an answer asked for."""
    await connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    await call.until("session.updated")
    await connection.input_audio_buffer.commit(event_id="too-early")
    for piece in raw(np.concatenate([silence(4.0), QUESTION]), packet=4800):
        await connection.input_audio_buffer.append(audio=encode(piece))
    call.sent_s = 4.0 + len(QUESTION) / RATE
    await connection.input_audio_buffer.commit()
    await connection.response.create(response={"metadata": {"number": "one"}})
    await connection.response.create(event_id="twice")
    await call.until("error", 2)
    await speak(served, call, append(connection), raw(silence(2.8)))
    await call.until("response.done")


async def cancelling(served: Served, connection: Any, call: Call) -> None:
    await connection.response.cancel(event_id="nothing-yet")
    await speak(served, call, append(connection), raw(np.concatenate([silence(0.2), QUESTION, silence(1.0)])))
    await call.until("response.output_audio.delta", 8)
    await connection.response.cancel()
    await call.until("response.done")
    item = call.one("response.output_item.added")["item"]["id"]
    await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=160)
    await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=60000, event_id="too-long")
    await connection.conversation.item.retrieve(item_id=item)
    await call.until("conversation.item.retrieved")
    await speak(served, call, append(connection), raw(silence(1.0)))


async def truncating(served: Served, connection: Any, call: Call) -> None:
    """A client that has stopped playing says so while the answer still comes."""
    await speak(served, call, append(connection), raw(np.concatenate([silence(0.2), QUESTION, silence(1.0)])))
    await call.until("response.output_audio.delta", 8)
    item = call.one("response.output_item.added")["item"]["id"]
    await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=200)
    await call.until("response.done")
    await speak(served, call, append(connection), raw(silence(1.0)))


async def items(served: Served, connection: Any, call: Call) -> None:
    """History by hand, and mistakes that keep the socket open."""
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    await connection.conversation.item.create(item=message | {"id": "first"})
    await connection.conversation.item.create(item=message | {"id": "before"}, previous_item_id="root")
    await connection.conversation.item.create(item=message | {"id": "first"}, event_id="again")
    await connection.conversation.item.delete(item_id="first")
    await connection.conversation.item.delete(item_id="first", event_id="gone")
    await connection.input_audio_buffer.clear()
    await connection.output_audio_buffer.clear(event_id="webrtc")
    for session in ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}, {"instructions": 5}):
        await connection.send({"type": "session.update", "event_id": "bad", "session": {"type": "realtime"} | session})
    await connection.send({"type": "nonsense", "event_id": "what"})
    await connection.send({"type": "input_audio_buffer.append", "audio": "%%%", "event_id": "letters"})
    await connection.send({"type": "input_audio_buffer.append", "audio": base64.b64encode(b"odd").decode()})
    await connection.send({"event_id": "no-type"})
    await call.until("error", 9)


SCENARIOS: dict[str, tuple[Talk, bool]] = {
    "turn": (question_then(), False),
    "pcmu": (
        updated(
            {
                "type": "realtime",
                "audio": {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcmu"}}},
            },
            question_then(law=mulaw_encode, rate=8000),
        ),
        False,
    ),
    "pcma": (
        updated(
            {
                "type": "realtime",
                "audio": {"input": {"format": {"type": "audio/pcma"}}, "output": {"format": {"type": "audio/pcma"}}},
            },
            question_then(law=alaw_encode, rate=8000),
        ),
        False,
    ),
    "beta": (question_then(), True),
    "beta_by_shape": (
        updated({"modalities": ["text", "audio"], "input_audio_format": "pcm16", "voice": "agent"}, question_then()),
        False,
    ),
    "text": (updated({"type": "realtime", "output_modalities": ["text"]}, question_then()), False),
    "interruption": (question_then(silence(0.6), speech()[: round(1.4 * RATE)]), False),
    "backchannel": (question_then(silence(0.6), speech("opening_hours")[4000 : 4000 + round(0.35 * RATE)]), False),
    "patient": (
        updated(
            {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
            question_then(silence(0.9), speech("opening_hours")[4000 : 4000 + round(0.35 * RATE)]),
        ),
        False,
    ),
    "patient_interruption": (
        updated(
            {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
            question_then(silence(0.9), speech()[: round(1.4 * RATE)]),
        ),
        False,
    ),
    "uninterrupted": (
        updated(
            {
                "type": "realtime",
                "audio": {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}},
            },
            question_then(silence(0.6), speech()[: round(0.9 * RATE)]),
        ),
        False,
    ),
    "manual": (manual, False),
    "cancel": (cancelling, False),
    "truncate": (truncating, False),
    "items": (items, False),
}


@pytest.fixture(scope="module")
def calls(served: Served) -> dict[str, Call]:
    async def run() -> list[Call]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(_one(served, name) for name in SCENARIOS))

    found = dict(zip(SCENARIOS, asyncio.run(run()), strict=True))
    assert {name: call.closed for name, call in found.items() if call.closed} == {}
    return found


async def _one(served: Served, name: str) -> Call:
    talk, beta = SCENARIOS[name]
    if name != "beta_by_shape":
        return await realtime(served, functools.partial(talk, served), beta)
    call = Call("beta")  # but for the first event, which comes before the client's
    async with served.client().realtime.connect(model="s2s") as connection:
        created = (await connection.recv()).to_dict()
        check("ga", created)
        call.session_id = created["session"]["id"]
        await converse(connection, call, functools.partial(talk, served))
    return call


ANSWERING = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.done",
]


def level(pcm: np.ndarray) -> float:
    return float(np.sqrt(np.mean(pcm.astype(np.float64) ** 2)))


def audible_s(pcm: np.ndarray, limit: float = 0.3 * 32768 / np.sqrt(2) / 10) -> float:
    """Seconds within 20 dB of the answer's level."""
    blocks = pcm[: len(pcm) // 240 * 240].reshape(-1, 240).astype(np.float64)
    return float((np.sqrt((blocks**2).mean(axis=1)) > limit).sum() / 100)


def first_answer(call: Call) -> np.ndarray:
    """The sound of the first answer: what is said over it may get one of its own."""
    answer = call.first("response.created")["response"]["id"]
    deltas = [event["delta"] for event in call.of("response.output_audio.delta") if event["response_id"] == answer]
    return np.frombuffer(b"".join(map(base64.b64decode, deltas)), dtype="<i2")


def test_a_turn_comes_in_the_documented_order(calls: dict[str, Call]) -> None:
    call = calls["turn"]
    assert call.types[0] == "session.created"
    assert in_order(
        call.types,
        ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed"],
    )
    answering = [kind for kind in call.types if kind.startswith("response.")]
    assert in_order(answering, [kind for kind in ANSWERING if kind.startswith("response.")])
    started, committed = call.one("input_audio_buffer.speech_started"), call.one("input_audio_buffer.committed")
    assert started["item_id"] == committed["item_id"] == call.one("input_audio_buffer.speech_stopped")["item_id"]
    assert 0 <= started["audio_start_ms"] <= 300
    assert len({event["event_id"] for event in call.events}) == len(call.events)


def test_the_answer_arrives_whole(calls: dict[str, Call]) -> None:
    call = calls["turn"]
    assert audible_s(call.pcm()) == pytest.approx(ANSWER_S, abs=0.05)
    assert call.one("response.output_audio_transcript.done")["transcript"] == SAID
    done = call.one("response.done")["response"]
    assert done["status"] == "completed"
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": SAID}]
    assert done["usage"]["total_tokens"] > 0
    ids = {event["item_id"] for event in call.of("response.output_audio.delta")}
    assert ids == {done["output"][0]["id"]}


def test_the_caller_is_transcribed_after_the_item(calls: dict[str, Call]) -> None:
    call = calls["turn"]
    kind = "conversation.item.input_audio_transcription"
    assert "".join(event["delta"] for event in call.of(f"{kind}.delta")) == HEARD
    completed = call.one(f"{kind}.completed")
    assert completed["transcript"] == HEARD
    assert completed["item_id"] == call.one("input_audio_buffer.committed")["item_id"]
    assert call.types.index("input_audio_buffer.committed") < call.types.index(f"{kind}.delta")


@pytest.mark.parametrize(("name", "decode"), [("pcmu", mulaw_decode), ("pcma", alaw_decode)])
def test_telephone_formats_both_ways(calls: dict[str, Call], name: str, decode: Any) -> None:
    call = calls[name]
    assert call.one("session.updated")["session"]["audio"]["input"]["format"]["type"] == f"audio/{name}"
    pcm = decode(np.frombuffer(call.audio(), dtype=np.uint8))
    wav = float_to_int16(resample(int16_to_float(pcm), 8000, RATE))
    assert audible_s(wav) == pytest.approx(ANSWER_S, abs=0.1)
    assert level(wav[RATE // 2 : RATE]) == pytest.approx(0.3 * 32768 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("name", ["beta", "beta_by_shape"])
def test_the_preview_dialect_by_header_or_by_shape(calls: dict[str, Call], name: str) -> None:
    call = calls[name]
    assert audible_s(call.pcm("response.audio.delta")) == pytest.approx(ANSWER_S, abs=0.05)
    assert call.one("response.audio_transcript.done")["transcript"] == SAID
    assert not [kind for kind in call.types if "output_audio" in kind or kind == "conversation.item.added"]
    session = call.first("session.created" if name == "beta" else "session.updated")["session"]
    assert session["input_audio_format"] == "pcm16" and "audio" not in session
    part = call.one("response.done")["response"]["output"][0]["content"][0]
    assert part == {"type": "audio", "transcript": SAID}


def test_text_instead_of_audio(calls: dict[str, Call]) -> None:
    call = calls["text"]
    assert not call.of("response.output_audio.delta")
    assert call.one("response.output_text.done")["text"] == SAID
    assert call.one("response.done")["response"]["output_modalities"] == ["text"]


def test_an_interruption_stops_the_agent(calls: dict[str, Call]) -> None:
    call = calls["interruption"]
    done = call.first("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
    started = [i for i, kind in enumerate(call.types) if kind == "input_audio_buffer.speech_started"]
    end = call.types.index("response.done")
    assert started[0] < started[1] < end
    # The scripted agent talks on for two seconds; the caller hears less of it, and less still at its level.
    assert audible_s(first_answer(call)) < ANSWER_S - 0.5
    assert len(done["output"][0]["content"][0]["transcript"]) < len(SAID)
    assert SAID.startswith(done["output"][0]["content"][0]["transcript"])
    assert done["output"][0]["status"] == "incomplete"
    late = [event for event in call.events[end + 1 :] if event.get("response_id") == done["id"]]
    assert late == [], "nothing follows of an answer that is done"


def test_a_backchannel_does_not(calls: dict[str, Call]) -> None:
    call = calls["backchannel"]
    assert call.first("response.done")["response"]["status"] == "completed"
    assert len(call.of("input_audio_buffer.speech_started")) == 2, "the backchannel was heard"
    assert ANSWER_S - 1.0 < audible_s(first_answer(call)) < ANSWER_S - 0.1, "turned down for a while and back"


def test_semantic_detection_tells_of_no_backchannel(calls: dict[str, Call]) -> None:
    """Clients stop their playback when they hear of a turn, so this one hears of those that took the floor."""
    call = calls["patient"]
    assert len(call.of("input_audio_buffer.speech_started")) == 1
    assert len(call.of("input_audio_buffer.committed")) == 1
    assert call.first("response.done")["response"]["status"] == "completed"
    call = calls["patient_interruption"]
    assert call.first("response.done")["response"]["status_details"]["reason"] == "turn_detected"
    places = [i for i, kind in enumerate(call.types) if kind == "input_audio_buffer.speech_started"]
    between = call.types[places[1] + 1 : call.types.index("response.done")]
    assert "response.output_audio.delta" not in between, "told and stopped in one breath"


def test_a_client_may_forbid_interruptions(calls: dict[str, Call]) -> None:
    call = calls["uninterrupted"]
    assert call.first("response.done")["response"]["status"] == "completed"
    assert audible_s(first_answer(call)) == pytest.approx(ANSWER_S, abs=0.05)


def test_turns_by_hand(calls: dict[str, Call]) -> None:
    call = calls["manual"]
    assert not call.of("input_audio_buffer.speech_started")
    assert call.one("session.updated")["session"]["audio"]["input"]["turn_detection"] is None
    errors = {event["error"]["code"]: event["error"]["event_id"] for event in call.of("error")}
    assert errors == {
        "input_audio_buffer_commit_empty": "too-early",
        "conversation_already_has_active_response": "twice",
    }
    assert call.one("response.created")["response"]["metadata"] == {"number": "one"}
    assert audible_s(call.pcm()) == pytest.approx(ANSWER_S, abs=0.05)
    assert in_order(call.types, ["input_audio_buffer.committed", "response.created", "response.done"])


def test_cancel_and_truncate(calls: dict[str, Call]) -> None:
    call = calls["cancel"]
    done = call.one("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
    assert audible_s(call.pcm()) < ANSWER_S / 2
    errors = [(event["error"]["code"], event["error"]["event_id"]) for event in call.of("error")]
    assert errors == [("response_cancel_not_active", "nothing-yet"), ("invalid_value", "too-long")]
    assert call.one("conversation.item.truncated")["audio_end_ms"] == 160
    kept = call.one("conversation.item.retrieved")["item"]["content"][0]["transcript"]
    assert SAID.startswith(kept) and len(kept) <= 4, "one letter per 40 ms, none beyond the cut"


def test_truncating_the_running_answer_stops_it(calls: dict[str, Call]) -> None:
    call = calls["truncate"]
    assert call.one("response.done")["response"]["status"] == "cancelled"
    assert audible_s(call.pcm()) < ANSWER_S / 2


def test_history_and_mistakes_keep_the_socket_open(calls: dict[str, Call]) -> None:
    call = calls["items"]
    added = [(event["previous_item_id"], event["item"]["id"]) for event in call.of("conversation.item.added")]
    assert added == [(None, "first"), (None, "before")]
    assert call.one("conversation.item.deleted")["item_id"] == "first"
    errors = [(event["error"]["code"], event["error"]["event_id"]) for event in call.of("error")]
    assert errors == [
        ("item_already_exists", "again"),
        ("item_not_found", "gone"),
        ("invalid_event", "webrtc"),
        ("invalid_value", "bad"),
        ("invalid_value", "bad"),
        ("unknown_event", "what"),
        ("invalid_base64", "letters"),
        ("invalid_audio", None),
        ("missing_type", "no-type"),
    ]
