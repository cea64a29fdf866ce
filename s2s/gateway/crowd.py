"""Many callers at once: a closed loop (each places its next call when the last is over) or an open one (Poisson).

An open loop does not wait for the server: what it is too slow for piles up and is seen, as with real callers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from s2s.gateway.caller import Attempt, CallConfig, Talk, place_call

MAX_ATTEMPTS = 20_000  # of one open loop, whatever is asked for

NewTalk = Callable[[int], Talk]
"""The number of a call -> what its caller says."""


@dataclass
class Crowd:
    """The attempts in the order they were placed, seconds it took, and processor seconds of this process."""

    attempts: list[Attempt]
    wall_s: float
    cpu_s: float

    @property
    def client_cores(self) -> float:
        """How many cores the callers kept busy."""
        return self.cpu_s / self.wall_s if self.wall_s else 0.0


def closed_loop(config: CallConfig, new_talk: NewTalk, sessions: int, rounds: int = 1, seed: int = 0) -> Crowd:
    """`sessions` callers at once, each with `rounds` calls one after the other, the first ones at random phases."""
    phases = random.Random(seed)
    starts = [phases.uniform(0, 1) for _ in range(sessions)]

    async def caller(number: int) -> list[Attempt]:
        await asyncio.sleep(starts[number])
        return [await _place(config, new_talk, number + turn * sessions) for turn in range(rounds)]

    async def everybody() -> list[Attempt]:
        return [each for some in await asyncio.gather(*map(caller, range(sessions))) for each in some]

    return _timed(everybody)


def open_loop(config: CallConfig, new_talk: NewTalk, rate: float, duration_s: float, seed: int = 0) -> Crowd:
    """Calls that come at `rate` per second on average for `duration_s`, however those before them fare."""
    times = arrivals(rate, duration_s, seed)

    async def everybody() -> list[Attempt]:
        start_s = time.monotonic()
        tasks = []
        for number, at_s in enumerate(times):
            await asyncio.sleep(max(0.0, start_s + at_s - time.monotonic()))
            tasks.append(asyncio.create_task(_place(config, new_talk, number)))
        return list(await asyncio.gather(*tasks))

    return _timed(everybody)


def arrivals(rate: float, duration_s: float, seed: int = 0) -> list[float]:
    """Seconds at which the calls of an open loop come: a Poisson process.

    Raises ValueError for more calls than `MAX_ATTEMPTS`.
    """
    if rate <= 0 or duration_s <= 0:
        raise ValueError(f"a rate of {rate} calls per second for {duration_s} s is no load; both must be above 0")
    if rate * duration_s > MAX_ATTEMPTS:
        raise ValueError(f"{rate * duration_s:.0f} calls are too many, allowed are {MAX_ATTEMPTS}: a shorter time?")
    clock, times, chance = 0.0, list[float](), random.Random(seed)
    while len(times) < MAX_ATTEMPTS:
        clock += chance.expovariate(rate)
        if clock >= duration_s:
            break
        times.append(clock)
    return times


def until_admitted(config: CallConfig, talk: Callable[[], Talk], timeout_s: float = 10.0) -> tuple[float, Attempt]:
    """Call again and again until the server takes the call; seconds until it did, and the last attempt."""

    async def knock() -> tuple[float, Attempt]:
        start_s = time.monotonic()
        while True:
            attempt = await place_call(config, talk())
            waited_s = attempt.placed_s - start_s + attempt.answer_ms / 1000
            if attempt.call is not None or waited_s > timeout_s:
                return waited_s, attempt
            await asyncio.sleep(0.02)

    return asyncio.run(knock())


async def _place(config: CallConfig, new_talk: NewTalk, number: int) -> Attempt:
    attempt = await place_call(config, new_talk(number))
    attempt.number = number
    return attempt


def _timed(work: Callable[[], Awaitable[list[Attempt]]]) -> Crowd:
    async def run() -> list[Attempt]:
        return await work()

    start_s, start_cpu_s = time.monotonic(), time.process_time()
    attempts = asyncio.run(run())
    attempts.sort(key=lambda attempt: attempt.placed_s)
    return Crowd(attempts, time.monotonic() - start_s, time.process_time() - start_cpu_s)
