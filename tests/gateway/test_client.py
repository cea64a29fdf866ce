"""The client: addresses, refusals, times; against real servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest

from s2s.gateway.admission import Access
from s2s.gateway.client import CallRefused, LiveClient, Received, endpoint
from s2s.gateway.server import ServerConfig
from tests.gateway.serving import PACKET, RATE, Served, serving, silence


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("ws://host:1", "ws://host:1/v1/live/sessions?extensions=1"),
        ("http://host/", "ws://host/v1/live/sessions?extensions=1"),
        ("https://host", "wss://host/v1/live/sessions?extensions=1"),
        ("host:8080", "ws://host:8080/v1/live/sessions?extensions=1"),
        ("[::1]:8080", "ws://[::1]:8080/v1/live/sessions?extensions=1"),
        ("wss://host/other/path?a=b", "wss://host/other/path?a=b&extensions=1"),
    ],
)
def test_addresses(given: str, address: str) -> None:
    assert endpoint(given, query="extensions=1") == address


@pytest.mark.parametrize("given", ["", "ws://", "ftp://host", "ws://host:port", "ws://host:99999"])
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        endpoint(given)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="does not belong") as error:
        endpoint("ws://me:secret@host")
    assert "secret" not in str(error.value)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(config=ServerConfig(model="echo", access=Access("secret")), max_sessions=1) as server:
        yield server


def test_a_call_with_times(served: Served) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.int16)

    async def call() -> tuple[list[float], list[Received], LiveClient]:
        sent, came = [], []
        async with LiveClient(served.ws, "secret") as client:

            async def speak() -> None:
                for number, packet in enumerate(np.split(np.concatenate([tone, silence(0.5)]), RATE // PACKET)):
                    await asyncio.sleep(max(0.0, client.started_s + number * PACKET / RATE - time.monotonic()))
                    sent.append(await client.append(packet))
                await client.mute(True)
                await client.hang_up()

            speaking = asyncio.create_task(speak())
            async for received in client:
                came.append(received)
            await speaking
        return sent, came, client

    sent, came, client = asyncio.run(call())
    assert client.session["model"] == "echo"
    assert client.opened_s < client.started_s < sent[0] < sent[-1]
    times = [received.at_s for received in came]
    assert times == sorted(times) and times[-1] > sent[-1]
    kinds = [received.type for received in came]
    assert "session.input_audio.muted" in kinds and kinds[-1] == "session.closed"
    audio = np.concatenate([received.pcm() for received in came if received.type == "session.output_audio.delta"])
    assert np.abs(audio).max() > 7000, "the echo came back"
    assert client.closed is not None and client.closed.code == 1000


def test_a_token_by_sub_protocol(served: Served) -> None:
    async def call() -> str:
        async with LiveClient(served.ws, "secret", token_in="subprotocol") as client:
            return str(client.session["status"])

    assert asyncio.run(call()) == "active"


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_call_without_the_token_is_refused(served: Served, token: str | None) -> None:
    with pytest.raises(CallRefused, match="token") as refused:
        asyncio.run(_open(served.ws, token))
    assert (refused.value.code, refused.value.status) == ("invalid_api_key", 401)


def test_a_full_server(served: Served) -> None:
    async def call() -> None:
        async with LiveClient(served.ws, "secret"), LiveClient(served.ws, "secret"):
            pass

    with pytest.raises(CallRefused) as refused:
        asyncio.run(call())
    assert refused.value.code == "server_full"
    assert refused.value.retry_after_s in (None, 2.0), "a number where the handshake could say it"


def test_no_server() -> None:
    with pytest.raises(ConnectionError, match=r"cannot reach ws://127\.0\.0\.1:1/"):
        asyncio.run(_open("ws://127.0.0.1:1", None))


def test_sending_after_the_end(served: Served) -> None:
    async def call() -> None:
        client = LiveClient(served.ws, "secret")
        await client.open()
        await client.close()
        assert await client.receive() is None or client.closed is not None
        await client.append(silence(0.02))

    with pytest.raises(ConnectionError, match="closed"):
        asyncio.run(call())


async def _open(url: str, token: str | None) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(LiveClient(url, token))
