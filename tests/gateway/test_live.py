"""/v1/live/sessions with the official client over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from s2s.audio.pcm import mulaw_decode, mulaw_encode
from s2s.gateway.bridge import BridgeConfig
from s2s.gateway.server import ServerConfig
from s2s.text import ByteTokenizer
from tests.gateway.calls import Call, check, converse, encode, live, raw, speak
from tests.gateway.serving import RATE, Served, serving, silence, speech
from tests.gateway.test_realtime import ANSWER_S, HEARD, QUESTION, SAID, audible_s, script

DELTA = "session.output_audio.delta"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(script(), ServerConfig(model="scripted"), max_sessions=8, tokenizer=ByteTokenizer()) as server:
        yield server


def append(connection: Any) -> Any:
    async def send(audio: str) -> None:
        await connection.session.input_audio.append(audio=audio)

    return send


async def hang_up(connection: Any, call: Call) -> None:
    await connection.session.close(event_id="bye")
    await call.until("session.closed")


def run(served: Served, talk: Any, session: dict[str, Any] | None = None) -> Call:
    return asyncio.run(live(served, talk, session))


def test_a_call_flows_both_ways(served: Served) -> None:
    spoken = np.concatenate([silence(0.2), QUESTION, silence(9.0)])

    async def talk(connection: Any, call: Call) -> None:
        await speak(served, call, append(connection), raw(spoken))
        await call.until(DELTA, len(spoken) // 960)
        await hang_up(connection, call)

    call = run(served, talk, {"model": "any", "audio": {"output": {"voice": "sage"}}})
    session = call.one("session.started")["session"]
    assert (session["model"], session["status"], session["audio"]["output"]["voice"]) == ("scripted", "active", "sage")
    assert call.types[0] == "session.started" and call.types[-1] == "session.closed"
    assert len(call.pcm(DELTA)) == len(spoken), "as much comes back as was sent, silence too"
    assert audible_s(call.pcm(DELTA)) == pytest.approx(ANSWER_S, abs=0.05)
    for side, text in (("input", HEARD), ("output", SAID)):
        deltas = call.of(f"session.{side}_transcript.delta")
        assert "".join(delta["delta"] for delta in deltas) == text
        assert all(delta["start_ms"] < delta["end_ms"] for delta in deltas)
    assert call.one("session.usage.updated")["usage"]["seconds"] == pytest.approx(10, abs=0.1)
    closed = call.one("session.closed")
    assert (closed["reason"], closed["client_event_id"]) == ("close_requested", "bye")


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcm"])
def test_formats(served: Served, kind: str) -> None:
    wire = {"audio/pcmu": (8000, mulaw_encode), "audio/pcm": (16000, None)}
    rate, law = wire[kind]
    from s2s.audio.pcm import float_to_int16, int16_to_float
    from s2s.audio.resample import resample

    pcm = float_to_int16(resample(int16_to_float(np.concatenate([silence(0.2), QUESTION, silence(2.4)])), RATE, rate))

    async def talk(connection: Any, call: Call) -> None:
        await speak(served, call, append(connection), raw(pcm, law, rate // 25), rate if law else 2 * rate)
        await call.until(DELTA, len(pcm) * 25 // rate - 4)
        await hang_up(connection, call)

    call = run(served, talk, {"model": "m", "audio": {"format": {"type": kind, "rate": rate}}})
    back = mulaw_decode(np.frombuffer(call.audio(DELTA), dtype=np.uint8)) if law else call.pcm(DELTA)
    assert audible_s(float_to_int16(resample(int16_to_float(back), rate, RATE))) == pytest.approx(ANSWER_S, abs=0.1)


def test_a_muted_caller_is_not_heard(served: Served) -> None:
    async def talk(connection: Any, call: Call) -> None:
        await connection.session.input_audio.mute(event_id="m")
        await call.until("session.input_audio.muted")
        await speak(served, call, append(connection), raw(np.concatenate([QUESTION, silence(1.0)])))
        await connection.session.input_audio.unmute()
        await call.until("session.input_audio.unmuted")
        await hang_up(connection, call)

    call = run(served, talk, {"model": "m"})
    assert not call.pcm(DELTA).any()
    assert call.one("session.input_audio.muted")["client_event_id"] == "m"


def test_an_interrupted_agent_falls_silent(served: Served) -> None:
    spoken = np.concatenate([silence(0.2), QUESTION, silence(0.6), speech()[: round(1.2 * RATE)]])

    async def talk(connection: Any, call: Call) -> None:
        await speak(served, call, append(connection), raw(spoken))
        await call.until(DELTA, len(spoken) // 960)
        await hang_up(connection, call)

    call = run(served, talk, {"model": "m"})
    assert 0.1 < audible_s(call.pcm(DELTA)) < 0.6
    said = "".join(delta["delta"] for delta in call.of("session.output_transcript.delta"))
    assert said and len(said) < len(SAID) and SAID.startswith(said)


def test_context_is_accepted_and_mistakes_keep_the_socket_open(served: Served) -> None:
    async def talk(connection: Any, call: Call) -> None:
        await connection.session.input_audio.append(audio=encode(b"\0\0"), event_id="early")
        await connection.send({"type": "session.start", "session": {"model": "m", "voice": "x"}})
        await connection.session.start(session={"model": "m", "instructions": "be kind"})
        await call.until("session.started")
        await connection.session.thinking.append(content="hm", delegation_id=None)
        await connection.session.instructions.append(content="be brief", delegation_id=None)
        await connection.session.commentary.append(content="done", delegation_id=None, event_id="c")
        await connection.session.update(session={"delegation": {"type": "client", "acknowledgement_delay_ms": 400}})
        await connection.session.start(session={"model": "m"}, event_id="twice")
        await connection.response.create(event_id="no")
        await connection.send({"type": "session.input_audio.append", "audio": 5, "event_id": "number"})
        await connection.session.input_audio.append(audio="?")
        await call.until("error", 6)
        await hang_up(connection, call)

    call = run(served, talk)
    codes = [event["error"]["code"] for event in call.of("error")]
    assert codes == [
        "session_not_started",
        "unknown_parameter",
        "session_already_started",
        "unsupported_event",
        "invalid_value",
        "invalid_base64",
    ]
    assert [event["error"]["client_event_id"] for event in call.of("error")][2:5] == ["twice", "no", "number"]
    assert call.one("info")["code"] == "context_not_read"
    assert call.one("session.commentary.appended")["client_event_id"] == "c"
    assert call.one("session.updated")["session"]["delegation"]["acknowledgement_delay_ms"] == 400


def test_extensions_tell_who_speaks(served: Served) -> None:
    async def run_call() -> Call:
        call = Call("live")
        async with served.client().live.connect(extra_query={"extensions": "1"}) as connection:
            await connection.session.start(session={"model": "m"})

            async def talk(connection: Any, call: Call) -> None:
                spoken = np.concatenate([silence(0.2), QUESTION, silence(2.8)])
                await speak(served, call, append(connection), raw(spoken))
                await call.until("s2s.answer_ended")

            await converse(connection, call, talk)
        return call

    call = asyncio.run(run_call())
    assert [kind for kind in call.types if kind.startswith("s2s.")] == [
        "s2s.caller_started",
        "s2s.answer_started",
        "s2s.caller_stopped",
        "s2s.answer_ended",
    ]
    assert call.one("s2s.answer_ended")["reason"] == "completed"


def test_a_call_may_have_a_longest_time() -> None:
    with serving(config=ServerConfig(bridge=BridgeConfig(max_call_s=0.3))) as served:

        async def talk(connection: Any, call: Call) -> None:
            await call.until("session.closed")

        call = run(served, talk, {"model": "m"})
        assert call.one("session.closed")["reason"] == "expired"

        async def realtime() -> list[dict[str, Any]]:
            async with served.client().realtime.connect(model="m") as connection:
                return [(await connection.recv()).to_dict() for _ in range(2)]

        created, error = asyncio.run(realtime())
        check("ga", error)
        assert created["type"] == "session.created" and error["error"]["code"] == "session_expired"
