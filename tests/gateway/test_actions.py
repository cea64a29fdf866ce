"""What the agent does beside speaking, and who speaks first: over both protocols, with the official client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from s2s.gateway.bridge import BridgeConfig
from s2s.gateway.server import ServerConfig
from s2s.models.scripted import NO_TOKEN, Script, ScriptedStep
from s2s.text import BpeTokenizer
from tests.engine.fakes import Greeter
from tests.gateway.calls import Call, live, raw, realtime, speak
from tests.gateway.serving import RATE, Served, serving, silence, speech

SAID = "one moment please"
ACTING = BpeTokenizer.train([SAID], 258, ("handoff", "hangup"))
ANSWER_S = 1.0
QUESTION = np.concatenate([silence(0.2), speech()[: round(0.8 * RATE)]])
AUDIO = {"live": "session.output_audio.delta", "realtime": "response.output_audio.delta"}
ACTION = {"live": "session.delegation.created", "realtime": "s2s.action"}
PROTOCOLS = ["live", "realtime"]


def script(*actions: str, at: int = 20) -> ScriptedStep:
    """Answers with a tone; `actions` are decided in step `at` of it, as its words."""
    words = ACTING.encode(SAID)
    ids = [*words, *[NO_TOKEN] * (at - len(words)), *(ACTING.actions[name] for name in actions)]
    tone = 0.3 * torch.sin(2 * torch.pi * 440 / RATE * torch.arange(round(ANSWER_S * RATE)))
    return ScriptedStep(Script(tone, delay_s=0.4, text={"agent_text": ids}))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(script("handoff"), ServerConfig(), max_sessions=8, tokenizer=ACTING) as server:
        yield server


def say(served: Served, protocol: str, parts: Sequence[np.ndarray], session: dict[str, Any] | None = None) -> Call:
    """A call in which the caller says this; it ends with what was said, or when the server ends it."""

    async def talk(connection: Any, call: Call) -> None:
        if protocol == "realtime" and session is not None:
            await connection.send({"type": "session.update", "session": {"type": "realtime"} | session})

        async def append(audio: str) -> None:
            if protocol == "live":
                await connection.session.input_audio.append(audio=audio)
            else:
                await connection.input_audio_buffer.append(audio=audio)

        spoken = np.concatenate(parts)
        await speak(served, call, append, raw(spoken))
        heard = served.session(call.session_id)
        async with asyncio.timeout(10):
            while heard.stats.ticks < len(spoken) // 960 and not heard.closing:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)  # what the last steps said is on its way

    if protocol == "live":
        return asyncio.run(live(served, talk, {"model": "m"} | (session or {})))
    return asyncio.run(realtime(served, talk))


def heard_before(call: Call, kind: str, event: str) -> np.ndarray:
    """The agent's audio that came before an event."""
    at = call.types.index(event)
    return Call(call.kind, call.events[:at]).pcm(kind)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_action_is_told_when_the_answer_has_been_heard(served: Served, protocol: str) -> None:
    call = say(served, protocol, [QUESTION, silence(2.8)])
    told = call.one(ACTION[protocol])
    if protocol == "live":
        assert (told["delegation"]["target"], told["delegation"]["name"]) == ("client", "handoff")
    else:
        assert told["name"] == "handoff"
        assert call.types.index("response.done") < call.types.index("s2s.action")
    decided_ms = told["offset_ms" if protocol == "live" else "at_ms"]
    assert 1400 + 800 - 120 < decided_ms < 1400 + 800 + 120, "on the call's clock, within the answer"
    heard = heard_before(call, AUDIO[protocol], ACTION[protocol])
    last = np.flatnonzero(np.abs(heard) > 300)[-1]
    assert np.abs(heard).max() > 3000 and len(heard) - last > 0.5 * RATE, "all of it, and a pause"
    assert len(np.flatnonzero(np.abs(call.pcm(AUDIO[protocol])) > 300)) == len(np.flatnonzero(np.abs(heard) > 300))
    words = "session.output_transcript.delta" if protocol == "live" else "response.output_audio_transcript.delta"
    assert "".join(event["delta"] for event in call.of(words)) == SAID


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_action_of_an_answer_that_was_cut_off_is_not_told(served: Served, protocol: str) -> None:
    call = say(served, protocol, [QUESTION, silence(0.6), speech()[: round(1.2 * RATE)], silence(0.3)])
    assert call.of(AUDIO[protocol]) and not call.of(ACTION[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_server_hangs_up_where_it_may(protocol: str) -> None:
    config = ServerConfig(bridge=BridgeConfig(hang_up=True))
    with serving(script("handoff", "hangup"), config, max_sessions=1, tokenizer=ACTING) as server:
        call = say(server, protocol, [QUESTION, silence(6.0)])
        assert [str(event).count("handoff") for event in call.of(ACTION[protocol])] == [1, 0]
        assert call.closed == (1000, "agent_hangup")
        assert not call.of("error")
        said = len(np.flatnonzero(np.abs(call.pcm(AUDIO[protocol])) > 300)) / RATE
        assert said == pytest.approx(ANSWER_S, abs=0.06), "all of its goodbye, and no more"
        if protocol == "live":
            assert call.one("session.closed")["reason"] == "remote_hangup"
        assert 's2s_calls_ended_total{reason="agent_hangup"} 1.0' in server.gateway.metrics.render().decode()


def test_else_the_client_is_told_and_the_call_goes_on() -> None:
    with serving(script("hangup"), max_sessions=1, tokenizer=ACTING) as server:
        call = say(server, "live", [QUESTION, silence(4.0)])
    assert call.one(ACTION["live"])["delegation"]["name"] == "hangup" and call.closed is None
    assert len(call.pcm(AUDIO["live"])) > 4.5 * RATE


@pytest.fixture(scope="module", params=[True, False])
def greeting(request: pytest.FixtureRequest) -> Iterator[tuple[Served, bool]]:
    step = Greeter(greeting=10, step_size=960, sample_rate=RATE)
    with serving(step, ServerConfig(opening=request.param), max_sessions=2) as server:
        yield server, request.param


@pytest.mark.parametrize("wanted", [True, False, None])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_speaks_first_is_the_clients_or_the_servers_choice(
    greeting: tuple[Served, bool], protocol: str, wanted: bool | None
) -> None:
    server, default = greeting
    call = say(server, protocol, [silence(1.0)], None if wanted is None else {"opening": wanted})
    begun = "session.started" if protocol == "live" else "session.updated"
    if wanted is not None or protocol == "live":
        assert call.one(begun)["session"]["opening"] is (default if wanted is None else wanted)
    speaks = default if wanted is None else wanted
    assert bool(call.of(AUDIO["realtime"]) if protocol == "realtime" else call.pcm(AUDIO["live"]).any()) is speaks


def test_it_is_too_late_once_the_call_has_begun(greeting: tuple[Served, bool]) -> None:
    server, default = greeting

    async def talk(connection: Any, call: Call) -> None:
        for opening in (default, not default):
            session = {"type": "realtime", "opening": opening}
            await connection.send({"type": "session.update", "session": session, "event_id": f"{opening}"})
        await call.until("error")

    call = asyncio.run(realtime(server, talk))
    error = call.one("error")["error"]
    assert (error["code"], error["param"]) == ("cannot_update_opening", "session.opening")
    assert error["event_id"] == f"{not default}" and call.one("session.updated")["session"]["opening"] is default


def test_a_client_that_says_nothing_leaves_it_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2s.gateway.server._BEGIN_S", 0.02)
    step = Greeter(greeting=10, step_size=960, sample_rate=RATE)
    with serving(step, max_sessions=1, live=True) as server:

        async def talk(connection: Any, call: Call) -> None:
            await call.until("response.output_audio.delta")

        call = asyncio.run(realtime(server, talk))
    assert np.abs(call.pcm()).max() > 10000
