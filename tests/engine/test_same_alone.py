"""A caller's output is the same to the last bit alone and beside any others, in any row, whoever comes and goes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import pytest

from s2s.engine.engine import Engine, EngineConfig
from s2s.engine.session import Audio, Ended, Session, SessionConfig, Text
from s2s.engine.slots import Slots
from s2s.engine.warmup import agreeing_sizes
from s2s.models.step import DuplexStep, Step
from s2s.models.traced import TracedStep
from s2s.streaming import leaves
from s2s.text import ByteTokenizer
from tests.tiny import SMALL_SPEC, tiny_step

NUM_CALLERS = 16
LONGEST = 16
"""Steps of the longest call: three times the window of the tiny model."""
MAX_SESSIONS = 8


@dataclass(frozen=True)
class Caller:
    """Somebody with a voice, a way of sampling and a level, all from a number."""

    number: int

    @property
    def config(self) -> SessionConfig:
        """Every second one lets the agent speak first."""
        temperature, opening = 0.9 * (self.number % 3 > 0), self.number % 2 > 0
        return SessionConfig(temperature, top_k=self.number % 5, seed=self.number, opening=opening)

    @cached_property
    def pcm(self) -> np.ndarray:
        noise = np.random.default_rng(self.number).standard_normal(LONGEST * SMALL_SPEC.frame_size)
        return (noise * 10.0 ** (1 + self.number % 4)).clip(-32768, 32767).astype(np.int16)


CALLERS = [Caller(number) for number in range(NUM_CALLERS)]


@dataclass
class Call:
    """A caller in a session, for so many steps; `heard` holds the events of each step so far."""

    caller: Caller
    session: Session
    length: int
    heard: list[list[object]] = field(default_factory=list)
    pushed: int = 0

    def push(self) -> None:
        """Another step in packets of any size."""
        size = self.session.step_size
        pcm = self.caller.pcm[self.pushed * size : (self.pushed + 1) * size]
        for packet in np.split(pcm, [size // 3, size // 2]):
            self.session.push(packet)
        self.pushed += 1

    def pull(self) -> None:
        for event in self.session.pull():
            assert not isinstance(event, Ended)
            assert event.position == (len(self.heard) - isinstance(event, Text)) * self.session.step_size
            if isinstance(event, Audio):
                self.heard.append([event.pcm.tobytes()])
            else:
                self.heard[-1].append(event)


@cache
def tiny_traced() -> TracedStep:
    """Traced like the steps that are served, and quick."""
    return TracedStep(tiny_step(SMALL_SPEC))


@cache
def tiny_untraced() -> DuplexStep:
    return tiny_step(SMALL_SPEC)


def new_engine(step: Step, max_sessions: int = MAX_SESSIONS) -> Engine:
    return Engine(step, EngineConfig(max_sessions, clock="virtual"), ByteTokenizer())


def memory(engine: Engine, call: Call) -> bytes:
    """The bits of all that the engine remembers of a call: samples of 16 bits would hide small differences."""
    (group,) = engine._groups
    row = [seat.session for seat in group.seats].index(call.session)
    return b"".join(leaf.numpy().tobytes() for leaf in leaves(group.batch.slots.take(row, 1)))


@cache
def alone(step: TracedStep | DuplexStep) -> dict[Caller, tuple[list[list[object]], list[bytes]]]:
    """What every caller hears in each step of a call in an empty house, and what is remembered of the call after it."""
    engine, found = new_engine(step), {}
    for caller in CALLERS:
        call, memories = Call(caller, engine.open(caller.config), LONGEST), []
        for _ in range(LONGEST):
            call.push()
            engine.tick()
            memories.append(memory(engine, call))
        call.pull()
        call.session.close()
        engine.tick()
        found[caller] = call.heard, memories
    return found


def check_random_calls(step: TracedStep | DuplexStep, num_ticks: int, seed: int) -> int:
    """Random joins, leaves and waits in one engine; returns how many calls were compared with the same alone."""
    expected, rng, engine = alone(step), random.Random(seed), new_engine(step)
    calls: list[Call] = []
    compared = 0
    for _ in range(num_ticks):
        busy = rng.random() ** 0.5  # quiet and busy hours
        while len(calls) < MAX_SESSIONS and rng.random() < busy:
            caller, longest = rng.choice(CALLERS), LONGEST if rng.random() < 0.1 else 3
            calls.append(Call(caller, engine.open(caller.config), rng.randint(1, longest)))
        for call in calls:
            if call.pushed < call.length and rng.random() < 0.9:
                call.push()
        engine.tick()
        for call in list(calls):
            call.pull()
            if len(call.heard) == call.length or (call.heard and rng.random() < 0.02):
                heard, memories = expected[call.caller]
                assert call.heard == heard[: len(call.heard)], f"{call.caller} hears something else than alone"
                assert memory(engine, call) == memories[len(call.heard) - 1], f"{call.caller} is remembered differently"
                call.session.close()
                calls.remove(call)
                compared += 1
    return compared


def test_no_caller_can_hear_another_in_thousands_of_random_calls() -> None:
    assert sum(check_random_calls(tiny_traced(), 300, seed) for seed in range(4)) > 2000


def test_the_untraced_step_gives_the_same_alone() -> None:
    assert check_random_calls(tiny_untraced(), 25, seed=99) > 25


@pytest.mark.parametrize(
    "mistake", ["nobody moves", "rows are not fresh", "waiting rows go on", "nobody waits", "all sizes are run"]
)
def test_mistakes_are_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tiny_untraced()
    alone(step)
    if mistake == "nobody moves":
        monkeypatch.setattr("s2s.engine.slots.move_row", lambda *arguments: None)
    elif mistake == "rows are not fresh":
        monkeypatch.setattr("s2s.engine.slots.reset_rows", lambda *arguments: None)
    elif mistake == "waiting rows go on":
        monkeypatch.setattr(Slots, "undo", lambda *arguments: None)
    elif mistake == "nobody waits":
        monkeypatch.setattr(DuplexStep, "wait", lambda *arguments: None)
    else:
        monkeypatch.setattr("s2s.engine.engine.agreeing_sizes", lambda step, rows: (1, 2, 4, 8))
        if agreeing_sizes(step, MAX_SESSIONS)[0] == 1:
            pytest.skip("on this machine all numbers of rows round alike")
    with pytest.raises(AssertionError):
        check_random_calls(step, 60, seed=0)


def test_callers_differ() -> None:
    heard = [heard for heard, _ in alone(tiny_traced()).values()]
    assert len({str(steps) for steps in heard}) == NUM_CALLERS
    assert any(len(events) > 1 for steps in heard for events in steps), "no text was said"


@pytest.mark.parametrize("max_sessions", [1, 2, 3, 5])
def test_engines_of_any_size_give_the_same_in_every_row(max_sessions: int) -> None:
    """Where two rows round by their place, the engine has to find something else."""
    engine = new_engine(tiny_untraced(), max_sessions)
    memories = set()
    for num_calls in range(1, max_sessions + 1):
        calls = [Call(CALLERS[7], engine.open(CALLERS[7].config), 3) for _ in range(num_calls)]
        for _ in range(3):
            for call in calls:
                call.push()
            engine.tick()
        memories |= {memory(engine, call) for call in calls}
        for call in calls:
            call.session.close()
    assert len(memories) == 1
