"""Groups of sessions with ticks of their own."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from s2s.engine.engine import PATIENCE_S, SPARE_S, Engine, EngineConfig
from s2s.engine.session import Audio, Ended, Session, SessionConfig
from s2s.models.step import EchoStep
from tests.tiny import SMALL_SPEC, tiny_step

WAIT_S = 60.0
"""Longer than anything takes on the slowest machine."""


def pcm(level: int, count: int) -> np.ndarray:
    return np.full(count, level, dtype=np.int16)


def heard(session: Session) -> list[int]:
    """The first sample of every step that came."""
    return [int(event.pcm[0]) for event in session.pull() if isinstance(event, Audio)]


def test_a_session_joins_the_group_that_ticks_soonest(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    clock = SimpleNamespace(monotonic=lambda: now_s)
    for module in ("engine", "session"):
        monkeypatch.setattr(f"s2s.engine.{module}.time", clock)
    engine = Engine(EchoStep(40, 1000), EngineConfig(4, threads=1, phases=4))
    engine.warm_up()
    assert engine.stats.phases == 4

    def turn(number: int) -> list[int]:
        nonlocal now_s
        engine._tick(engine._groups[number])
        now_s += 0.01
        return [len(group.seats) for group in engine._groups]

    caller, silent, late = engine.open(), engine.open(), engine.open(SessionConfig(opening=None))
    late.push(pcm(3, 40))
    assert turn(0) == turn(1) == [0, 0, 0, 0], "nobody has said anything yet"
    now_s -= 0.001
    caller.push(pcm(7, 40))
    now_s += 0.001
    assert turn(2) == [0, 0, 0, 0], "a packet that comes that close to a tick will miss others"
    assert turn(3) == [0, 0, 0, 1] and heard(caller) == [7]
    for number in (0, 1, 2, 3):
        assert turn(number) == [0, 0, 0, 1]
    now_s += PATIENCE_S
    assert turn(0) == [1, 0, 0, 1], "whoever sends nothing is not waited for"
    late.begin(False)
    assert turn(1) == [1, 1, 0, 1] and heard(late) == [3]
    assert engine.stats.sessions == 3
    caller.close()
    assert turn(2) == [1, 1, 0, 1] and turn(3) == [1, 1, 0, 0], "it leaves at its own group's tick"
    engine.stop()
    assert [event.reason for event in silent.pull() if isinstance(event, Ended)] == ["engine stopped"]


def test_a_caller_hears_the_same_in_any_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2s.engine.engine.PATIENCE_S", WAIT_S)
    step, count = tiny_step(SMALL_SPEC), 6
    inputs = np.random.default_rng(0).integers(-9000, 9000, (3, count, step.step_size), dtype=np.int16)

    def said(callers: tuple[int, ...]) -> dict[int, bytes]:
        engine = Engine(step, EngineConfig(4, threads=1, phases=len(callers)))
        engine.warm_up()
        sessions = {caller: engine.open() for caller in callers}
        for turn in range(count + len(callers)):
            for first, (caller, session) in enumerate(sessions.items()):
                if 0 <= turn - first < count:
                    session.push(inputs[caller, turn - first])
            time.sleep(2 * SPARE_S)
            # In the first turns one caller after the other begins, each at the tick of another group.
            for group in engine._groups[turn : turn + 1] or engine._groups:
                engine._tick(group)
        assert all(len(group.seats) == 1 for group in engine._groups)
        return {
            caller: b"".join(event.pcm.tobytes() for event in session.pull() if isinstance(event, Audio))
            for caller, session in sessions.items()
        }

    together, size = said((0, 1, 2)), 2 * count * step.step_size
    assert len({pcm[:size] for pcm in together.values()}) == 3
    for caller, pcm in together.items():
        assert len(pcm) >= size and pcm[:size] == said((caller,))[caller][:size]


def test_with_a_virtual_clock_there_is_one_group() -> None:
    engine = Engine(EchoStep(40, 1000), EngineConfig(2, clock="virtual", phases=4))
    engine.warm_up()
    assert engine.stats.phases == 1
