"""Who may call, how a full server says so, health, metrics, recordings and draining."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from s2s.gateway.admission import Access, is_loopback
from s2s.gateway.limits import Limits
from s2s.gateway.server import ServerConfig
from s2s.gateway.serving import check_exposure
from tests.gateway.calls import Call, live, raw, speak
from tests.gateway.serving import PACKET, Served, serving, silence, speech, wait_for

TOKEN = "a secret of the tests"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    access = Access(TOKEN, origins=frozenset({"https://desk.example"}))
    with serving(config=ServerConfig(access=access, limits=Limits(max_per_client=1)), max_sessions=2) as served:
        yield served


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    with serving(config=ServerConfig(access=Access(hosts=frozenset({"127.0.0.1"}))), max_sessions=1) as served:
        yield served


async def status(url: str, **options: Any) -> int:
    """Of a handshake; 101 where it is a call."""
    try:
        async with connect(url, **options):
            return 101
    except InvalidStatus as error:
        body = json.loads(error.response.body)
        assert body["error"]["code"] and TOKEN not in json.dumps(body)
        return error.response.status_code


def bearer(token: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/live/sessions"])
def test_the_token(guarded: Served, path: str) -> None:
    async def run() -> None:
        url = guarded.ws + path
        assert await status(url) == 401
        assert await status(url, **bearer("wrong")) == 401
        assert await status(f"{url}?token={TOKEN.replace(' ', '+')}") == 401, "an address is no place for a secret"
        assert await status(url, **bearer(TOKEN)) == 101

    asyncio.run(run())


def test_the_token_as_a_sub_protocol() -> None:
    with serving(config=ServerConfig(access=Access("sub-protocol-token"))) as served:

        async def run() -> None:
            protocols: Any = ["realtime", "openai-insecure-api-key.sub-protocol-token"]
            async with connect(f"{served.ws}/v1/realtime", subprotocols=protocols) as socket:
                assert socket.subprotocol == "realtime"
            protocols = ["realtime", "openai-insecure-api-key.other"]
            assert await status(f"{served.ws}/v1/realtime", subprotocols=protocols) == 401

        asyncio.run(run())


def test_the_token_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with serving(config=ServerConfig(access=Access("never-logged"))) as served:

        async def run() -> None:
            for token in ("never-logged", "never-logged-either"):
                await status(f"{served.ws}/v1/realtime?token=never-logged", **bearer(token))

        # The client of this test logs its own headers; everybody else is looked at.
        asyncio.run(run())
    assert "never-logged" not in repr(ServerConfig(access=Access("never-logged")))
    lines = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.client")]
    assert not [line for line in lines if "never-logged" in line]


def test_web_pages_of_others_may_not_call(guarded: Served, small: Served) -> None:
    async def run() -> None:
        own = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{guarded.ws}/v1/realtime"
        assert await status(url, additional_headers=own | {"Origin": "https://evil.example"}) == 403
        assert await status(url, additional_headers=own | {"Origin": "https://desk.example"}) == 101
        await asyncio.to_thread(wait_for, lambda: guarded.gateway.admission.num_calls == 0)
        assert await status(url, additional_headers=own | {"Origin": guarded.http}) == 101
        rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
        assert (await http(small, "/metrics", headers=rebound)).status_code == 403

    asyncio.run(run())


async def http(served: Served, path: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(served.http + path, **options)


def test_a_client_has_its_share(guarded: Served) -> None:
    wait_for(lambda: guarded.gateway.admission.num_calls == 0)

    async def run() -> None:
        url = f"{guarded.ws}/v1/realtime"
        async with connect(url, **bearer(TOKEN)):
            assert await status(url, **bearer(TOKEN)) == 429
        await asyncio.to_thread(wait_for, lambda: guarded.gateway.admission.num_calls == 0)
        assert await status(url, **bearer(TOKEN)) == 101

    asyncio.run(run())


def test_a_full_server_says_so(small: Served) -> None:
    async def run() -> None:
        async with connect(f"{small.ws}/v1/realtime") as call:
            await call.recv()
            for path in ("/v1/realtime", "/v1/live/sessions"):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(small.ws + path)
                response = caught.value.response
                assert response.status_code == 503 and int(response.headers["Retry-After"]) > 0
                assert json.loads(response.body)["error"]["code"] == "server_full"
                # A browser shows its page no status.
                async with connect(small.ws + path, additional_headers={"Origin": small.http}) as refused:
                    with pytest.raises(ConnectionClosed) as closed:
                        await refused.recv()
                    assert closed.value.rcvd is not None
                    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, "server_full")
            ready = await http(small, "/readyz")
            assert ready.status_code == 503 and ready.json()["free"] == 0 and "Retry-After" in ready.headers
            assert (await http(small, "/livez")).status_code == 200
        await asyncio.to_thread(wait_for, lambda: small.gateway.admission.free == 1)
        assert (await http(small, "/readyz")).json() == {"ready": True, "warm": True, "free": 1, "draining": False}

    asyncio.run(run())


def test_a_session_lost_between_handshake_and_start_is_refused_too(small: Served) -> None:
    async def run() -> None:
        await asyncio.to_thread(wait_for, lambda: small.gateway.admission.free == 1)
        async with connect(f"{small.ws}/v1/live/sessions") as slow, connect(f"{small.ws}/v1/realtime") as quick:
            await quick.recv()
            await slow.send(json.dumps({"type": "session.start", "session": {"model": "m"}}))
            error = json.loads(await slow.recv())["error"]
            assert error["code"] == "server_full"
            with pytest.raises(ConnectionClosed) as closed:
                await slow.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013

    asyncio.run(run())


def test_refusals_come_at_once(small: Served) -> None:
    """Within 100 ms on a machine with time; here only that no refusal waits for anything."""

    async def run() -> None:
        await asyncio.to_thread(wait_for, lambda: small.gateway.admission.free == 1)
        async with connect(f"{small.ws}/v1/realtime") as call:
            await call.recv()
            start_s = time.monotonic()
            found = await asyncio.gather(*(status(f"{small.ws}/v1/realtime") for _ in range(20)))
            assert found == [503] * 20
            assert time.monotonic() - start_s < 10

    asyncio.run(run())


def test_metrics(guarded: Served) -> None:
    async def run() -> str:
        assert (await http(guarded, "/metrics")).status_code == 401
        response = await http(guarded, "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert response.status_code == 200
        return response.text

    text = asyncio.run(run())
    for name in (
        "s2s_sessions ",
        "s2s_sessions_free ",
        "s2s_step_seconds_bucket",
        "s2s_deadline_misses_total",
        "s2s_first_audio_seconds_bucket",
        "s2s_stop_seconds_bucket",
        "s2s_buffered_seconds",
        "s2s_calls_refused_total",
        "s2s_underruns_total",
    ):
        assert f"\n{name}" in text, name


@pytest.mark.parametrize("consent", [True, False])
def test_a_call_is_recorded_only_if_the_caller_agrees(tmp_path: Path, consent: bool) -> None:
    pcm = np.concatenate([silence(0.2), speech()[:24000], silence(0.8)])
    pcm = pcm[: len(pcm) // PACKET * PACKET]
    with serving(config=ServerConfig(record=tmp_path / "calls")) as served:

        async def talk(connection: Any, call: Call) -> None:
            async def append(audio: str) -> None:
                await connection.session.input_audio.append(audio=audio)

            await speak(served, call, append, raw(pcm))
            await call.until("session.output_audio.delta", len(pcm) // PACKET)
            await connection.session.close()
            await call.until("session.closed")

        asyncio.run(live(served, talk, {"model": "m", "store": consent}))
        wait_for(lambda: served.gateway.admission.num_calls == 0)
    if not consent:
        assert not (tmp_path / "calls").exists()
        return
    recorded, lines = sorted((tmp_path / "calls").iterdir(), reverse=True)
    with wave.open(str(recorded)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 24000, len(pcm))
        caller, agent = np.frombuffer(file.readframes(len(pcm)), dtype="<i2").reshape(-1, 2).T
    assert np.array_equal(caller, pcm)
    assert np.array_equal(agent, pcm), "an echo of the same step"
    events = [json.loads(line) for line in lines.read_text().splitlines()]
    assert events[0]["event"] == "Recording" and events[0]["consent"] is True
    assert {"CallerStarted", "AnswerStarted"} <= {event["event"] for event in events}


def test_consent_by_session_update(tmp_path: Path) -> None:
    with serving(config=ServerConfig(record=tmp_path)) as served:

        async def run() -> None:
            async with served.client().realtime.connect(model="m") as connection:
                await connection.recv()
                await connection.send({"type": "session.update", "session": {"type": "realtime"}})
                await connection.recv()
                assert not list(tmp_path.iterdir())
                update = {"type": "realtime", "recording_consent": True}
                await connection.send({"type": "session.update", "session": update})
                updated = (await connection.recv()).to_dict()
                assert updated["session"]["recording_consent"] is True

        asyncio.run(run())
        wait_for(lambda: served.gateway.admission.num_calls == 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_draining_lets_calls_finish() -> None:
    with serving(max_sessions=2) as served:

        async def run() -> None:
            url = f"{served.ws}/v1/live/sessions"
            async with connect(url) as call:
                await call.send(json.dumps({"type": "session.start", "session": {"model": "m"}}))
                assert json.loads(await call.recv())["type"] == "session.started"
                served.server.drain()
                assert (await http(served, "/readyz")).json()["draining"]
                assert (await http(served, "/livez")).status_code == 200
                assert await status(url) == 503
                await call.send(json.dumps({"type": "session.input_audio.mute"}))
                assert json.loads(await call.recv())["type"] == "session.input_audio.muted"
                assert not served.server.should_exit
            await asyncio.to_thread(wait_for, lambda: served.server.should_exit)

        asyncio.run(run())


def test_draining_has_an_end() -> None:
    with serving(config=ServerConfig(limits=Limits(drain_s=0.2))) as served:

        async def run() -> None:
            async with connect(f"{served.ws}/v1/realtime") as call:
                await call.recv()
                served.server.drain()
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await call.recv()
                assert call.close_code in (1001, 1012)

        asyncio.run(run())


def test_exposure() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("::1") and is_loopback("[::1]")
    assert not is_loopback("0.0.0.0") and not is_loopback("example.org")
    check_exposure("127.0.0.1", None, insecure=False)
    check_exposure("0.0.0.0", "token", insecure=False)
    check_exposure("0.0.0.0", None, insecure=True)
    with pytest.raises(ValueError, match="can be reached from other machines"):
        check_exposure("0.0.0.0", None, insecure=False)


def test_limits_are_above_zero() -> None:
    with pytest.raises(ValueError, match="idle_s is 0, allowed is above 0"):
        Limits(idle_s=0)
