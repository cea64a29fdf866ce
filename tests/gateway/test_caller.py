"""A benchmark's callers against real servers on loopback: calls, crowds, refusals, what the server counts."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from s2s.audio.pcm import int16_to_float
from s2s.gateway.admission import Access
from s2s.gateway.caller import PACKET, RATE, Attempt, CallConfig, Recital, Wire, place_call
from s2s.gateway.crowd import MAX_ATTEMPTS, arrivals, closed_loop, open_loop, until_admitted
from s2s.gateway.scrape import scrape
from s2s.gateway.server import ServerConfig
from s2s.gateway.voice_spans import voice_spans
from s2s.models.scripted import Script, ScriptedStep
from tests.gateway.serving import Served, serving, speech


@pytest.fixture(scope="module")
def echo() -> Iterator[Served]:
    with serving(live=True, max_sessions=2) as server:
        yield server


def call(config: CallConfig, pcm: np.ndarray, tail_s: float = 0.5) -> Attempt:
    return asyncio.run(place_call(config, Recital(pcm, round(tail_s * RATE))))


def noise(seconds: float, rng: np.random.Generator) -> np.ndarray:
    return (3000 * rng.standard_normal(round(seconds * RATE))).astype(np.int16)


@pytest.mark.parametrize("wire", ["live", "realtime"])
def test_a_call_is_recorded_on_the_callers_clock(echo: Served, wire: Wire, rng: np.random.Generator) -> None:
    said = np.concatenate([np.zeros(RATE // 4, np.int16), noise(0.6, rng)])
    attempt = call(CallConfig(echo.ws, wire=wire, playout_ms=100), said, tail_s=1.0)
    assert attempt.failure == "" and attempt.call is not None
    recorded = attempt.call
    assert len(recorded.caller) == len(recorded.agent) and len(recorded.caller) % PACKET == 0
    np.testing.assert_array_equal(recorded.caller[: len(said)], said)
    assert not recorded.caller[len(said) :].any()
    first_said, first_heard = (int(np.flatnonzero(np.abs(track) > 2000)[0]) for track in (said, recorded.agent))
    assert 0.14 * RATE < first_heard - first_said < 0.9 * RATE, "a frame of 40 ms and a buffer of 100 ms at least"
    assert all(at <= start for at, start in recorded.arrivals)
    assert attempt.answer_ms < 5000


def test_a_scripted_answer_is_heard_when_it_is_due() -> None:
    step = ScriptedStep(Script(torch.full((RATE // 2,), 0.2), delay_s=0.2))
    with serving(step, live=True, max_sessions=1) as served:
        said = np.concatenate([np.zeros(RATE // 4, np.int16), speech()[: RATE // 2]])
        attempt = call(CallConfig(served.ws, playout_ms=40), said, tail_s=1.2)
    assert attempt.call is not None and not attempt.failure
    last = int(np.flatnonzero(np.abs(int16_to_float(said)) > 0.01)[-1])
    begins = int(np.flatnonzero(attempt.call.agent)[0])
    assert 0.24 * RATE < begins - last < 0.9 * RATE


def test_who_talks_too_long_is_stopped(echo: Served) -> None:
    config = CallConfig(echo.ws, max_s=0.2)
    attempt = call(config, np.zeros(10 * RATE, np.int16))
    assert attempt.failure == "not over after 0.2 s"


def test_refusals_are_timed_and_named(echo: Served) -> None:
    crowd = closed_loop(CallConfig(echo.ws), lambda number: Recital(np.zeros(2 * RATE, np.int16)), sessions=4)
    refused = [attempt for attempt in crowd.attempts if attempt.refused]
    assert [attempt.refused for attempt in refused] == ["server_full"] * 2
    assert all(0 < attempt.answer_ms < 5000 and attempt.call is None for attempt in refused)
    assert sum(attempt.call is not None for attempt in crowd.attempts) == 2
    assert {attempt.number for attempt in crowd.attempts} == {0, 1, 2, 3}
    assert crowd.wall_s > 2 and 0 < crowd.client_cores < 5


def test_an_open_loop_does_not_wait(echo: Served) -> None:
    crowd = open_loop(CallConfig(echo.ws), lambda number: Recital(np.zeros(RATE, np.int16)), rate=20, duration_s=0.5)
    placed = [attempt.placed_s for attempt in crowd.attempts]
    assert len(placed) == len(arrivals(20, 0.5)) and max(placed) - min(placed) < 3
    waited_s, last = until_admitted(CallConfig(echo.ws), lambda: Recital(np.zeros(PACKET, np.int16)))
    assert last.call is not None and waited_s < 5


def test_who_cannot_be_reached() -> None:
    attempt = call(CallConfig("ws://127.0.0.1:1"), np.zeros(PACKET, np.int16))
    assert "cannot reach" in attempt.failure and attempt.call is None and not attempt.refused
    waited_s, last = until_admitted(CallConfig("ws://127.0.0.1:1"), lambda: Recital(np.zeros(1, np.int16)), 0.1)
    assert last.call is None and waited_s > 0.1


def test_a_server_that_goes_away_is_a_failure() -> None:
    with serving(live=True, max_sessions=1) as served:

        async def go() -> Attempt:
            calling = asyncio.create_task(place_call(CallConfig(served.ws), Recital(np.zeros(20 * RATE, np.int16))))
            while not served.sessions:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            served.engine.stop()
            return await calling

        attempt = asyncio.run(go())
    assert attempt.call is not None
    assert "ended the call" in attempt.failure


@pytest.mark.parametrize(("url", "wire"), [("ftp://x", "live"), ("ws://127.0.0.1:1", "telephone")])
def test_whom_nobody_can_call(url: str, wire: Wire) -> None:
    with pytest.raises(ValueError, match=r"no address|allowed are live and realtime"):
        CallConfig(url, wire=wire)


def test_a_poisson_process() -> None:
    times = arrivals(100.0, 50.0, seed=3)
    assert times == sorted(times) and times == arrivals(100.0, 50.0, seed=3)
    assert 4500 < len(times) < 5500
    gaps = np.diff(times)
    assert statistics.fmean(gaps) == pytest.approx(0.01, rel=0.1)
    assert np.std(gaps) == pytest.approx(0.01, rel=0.1), "of an exponential distribution the spread is the mean"
    with pytest.raises(ValueError, match=f"allowed are {MAX_ATTEMPTS}"):
        arrivals(1e5, 10)
    with pytest.raises(ValueError, match="both must be above 0"):
        arrivals(0, 10)


def test_what_a_server_counts() -> None:
    with serving(config=ServerConfig(access=Access("secret")), live=True, max_sessions=1) as served:
        before = scrape(served.ws, "secret")
        assert before is not None and before.sessions == 0
        attempt = call(CallConfig(served.ws, "secret"), np.zeros(RATE // 2, np.int16), 0)
        after = scrape(served.ws, "secret")
        assert not attempt.failure and after is not None
        assert after.step_ms[float("inf")] > before.step_ms[float("inf")]
        assert scrape(served.ws, "wrong") is None
    assert scrape("ws://127.0.0.1:1") is None


def test_voices_are_found_and_noises_are_not(rng: np.random.Generator) -> None:
    wav = np.concatenate([np.zeros(RATE), int16_to_float(speech()), np.zeros(RATE)])
    [(start, end)] = voice_spans(wav, RATE)
    assert start == pytest.approx(1.05 * RATE, abs=0.1 * RATE)
    assert end == pytest.approx(2.5 * RATE, abs=0.35 * RATE)
    assert voice_spans(np.zeros(RATE), RATE) == []
