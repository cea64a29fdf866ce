"""The life of sessions in an engine."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from s2s.audio.pcm import float_to_int16, int16_to_float
from s2s.engine.engine import Engine, EngineConfig, EngineFull, Waiting
from s2s.engine.session import Act, Audio, Ended, Session, SessionConfig, Text
from s2s.engine.stats import BOUNDS_MS
from s2s.models.offline import play
from s2s.models.step import EchoState, EchoStep, Step, StepOut
from s2s.nn.sampling import Controls
from s2s.streaming import clone
from s2s.text import BpeTokenizer, ByteTokenizer
from tests.engine.fakes import Greeter, SumState, SumStep
from tests.tiny import SMALL_SPEC, tiny_step

SIZE, RATE = 40, 1000
WAIT_S = 60.0
"""Longer than anything takes on the slowest machine."""


def pcm(level: int, count: int = SIZE) -> np.ndarray:
    return np.full(count, level, dtype=np.int16)


def virtual(step: Step | None = None, max_sessions: int = 3) -> Engine:
    return Engine(step or EchoStep(SIZE, RATE), EngineConfig(max_sessions, clock="virtual"), ByteTokenizer())


def heard(session: Session) -> list[int]:
    """The first sample of every step that came."""
    return [int(event.pcm[0]) for event in session.pull() if isinstance(event, Audio)]


def test_sessions_join_hear_and_leave() -> None:
    engine = virtual()
    first, second = engine.open(), engine.open()
    assert (first.sample_rate, first.step_size) == (RATE, SIZE) and first.id != second.id
    first.push(pcm(1))
    second.push(pcm(2))
    assert heard(first) == []
    engine.tick()
    assert (heard(first), heard(second)) == ([1], [2])
    first.close()
    second.push(pcm(3))
    engine.tick()
    assert first.pull() == [Ended("closed")] and heard(second) == [3]
    engine.stop()
    assert second.pull() == [Ended("engine stopped")]
    with pytest.raises(RuntimeError, match="stopped"):
        engine.tick()


def test_with_a_virtual_clock_input_is_waited_for() -> None:
    engine = virtual()
    quick, slow = engine.open(), engine.open()
    for number in range(4):
        quick.push(pcm(number + 1))
        slow.push(pcm(10 + number, SIZE // 2))
        engine.tick()
    assert heard(quick) == [1, 2, 3, 4] and heard(slow) == [10, 12]
    assert engine.stats.underruns == 0 and slow.stats.ticks == 2


def test_positions_count_a_sessions_own_samples() -> None:
    engine = virtual(SumStep())
    engine.tick()
    session = engine.open()
    for _ in range(3):
        session.push(pcm(1))
        engine.tick()
    events = session.pull()
    assert [event.position for event in events if isinstance(event, Audio)] == [0, SIZE, 2 * SIZE]
    assert [event for event in events if isinstance(event, Text)] == [
        Text("agent_text", letter, number * SIZE) for number, letter in enumerate("abc")
    ]


def test_a_full_engine_refuses_and_room_is_there_at_once() -> None:
    engine = virtual(max_sessions=2)
    sessions = [engine.open(), engine.open()]
    with pytest.raises(EngineFull, match="all 2 sessions are taken"):
        engine.open()
    engine.tick()
    with pytest.raises(EngineFull):
        engine.open()
    sessions[0].close()
    third = engine.open()  # before any tick
    with pytest.raises(EngineFull):
        engine.open()
    third.push(pcm(3))
    sessions[1].push(pcm(2))
    engine.tick()
    assert heard(third) == [3] and heard(sessions[1]) == [2]
    stats = engine.stats
    assert (stats.sessions, stats.free, stats.opened, stats.refusals) == (2, 0, 3, 3)
    engine.stop()
    with pytest.raises(EngineFull, match="stopped"):
        engine.open()
    assert engine.stats.free == 0


def test_who_finds_no_row_waits_for_one() -> None:
    engine = virtual(max_sessions=1)
    first = engine.open()
    engine.tick()
    # A call may end while a tick gives rows out: its place can be taken before its row is free.
    later, first_controls = Session("later", 1000, 40, 2000, 2000), engine._controls(SessionConfig())
    engine._waiting.append(Waiting(later, first_controls))
    later.push(pcm(5))
    engine.tick()
    assert heard(later) == [] and engine.stats.failures == 0
    first.close()
    engine.tick()
    assert heard(later) == [5] and first.pull() == [Ended("closed")]


def test_a_session_closed_before_it_joined_ends() -> None:
    engine = virtual()
    session = engine.open()
    session.push(pcm(1))
    session.close()
    engine.tick()
    assert session.pull() == [Ended("closed")] and engine.stats.sessions == 0


def test_controls_are_the_sessions_or_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Controls] = []

    class Watching(EchoStep):
        def __call__(self, wav: Tensor, state: EchoState, controls: Controls) -> StepOut:
            seen.append(clone(controls))
            return super().__call__(wav, state, controls)

    engine = virtual(Watching(SIZE, RATE))
    sessions = [engine.open(), engine.open(SessionConfig(0.0, 7, 5))]
    for session in sessions:
        session.push(pcm(1))
    engine.tick()
    torch.testing.assert_close(seen[-1].temperature, torch.tensor([0.7, 0.0]))
    assert seen[-1].top_k.tolist() == [50, 7] and seen[-1].seed.tolist() == [0, 5]
    for wrong in (SessionConfig(temperature=-1.0), SessionConfig(top_k=100_000)):
        with pytest.raises(ValueError, match="allowed"):
            engine.open(wrong)
    assert engine.stats.sessions == 2


def test_the_agent_speaks_first_unless_it_has_to_wait() -> None:
    engine = virtual(Greeter())
    greeted = engine.open()
    greeted.push(pcm(1))
    engine.tick()
    waited_for = engine.open(SessionConfig(opening=False))
    for _ in range(4):
        greeted.push(pcm(1))
        waited_for.push(pcm(2))
        engine.tick()
    assert heard(greeted) == [16384] * 3 + [1, 1], "whoever joins, it goes on"
    assert heard(waited_for) == [2, 2, 2, 2]


def test_a_session_waits_as_its_step_does() -> None:
    step, wav = tiny_step(SMALL_SPEC, dtype=torch.float64), 0.1 * torch.randn(1, 1, 9 * SMALL_SPEC.frame_size)
    given = float_to_int16(wav[0, 0].numpy())
    engine, controls = Engine(step, EngineConfig(2, clock="virtual", max_buffered_s=60)), Controls.uniform(1, 0.0)
    said = {}
    for opening in (True, False):
        session = engine.open(SessionConfig(temperature=0.0, opening=opening))
        session.push(given)
        for _ in range(9):
            engine.tick()
        said[opening] = np.concatenate([event.pcm for event in session.pull() if isinstance(event, Audio)])
        rows = torch.from_numpy(int16_to_float(given)).double()[None, None]
        alone = play(step, rows, controls, waits=torch.tensor([not opening])).wav[0, 0]
        assert np.array_equal(said[opening], float_to_int16(alone.float().numpy()))
    assert not np.array_equal(said[True], said[False])


def test_who_speaks_first_may_be_decided_later() -> None:
    engine = virtual(Greeter(), max_sessions=2)
    undecided, other = engine.open(SessionConfig(opening=None)), engine.open()
    for session in (undecided, other):
        session.push(pcm(7))
    engine.tick()
    assert heard(undecided) == [] and heard(other) == [16384], "it holds nobody up"
    assert engine.stats.sessions == 2 and engine.stats.free == 0
    undecided.begin(opening=False)
    undecided.begin(opening=True)  # too late
    engine.tick()
    assert heard(undecided) == [7] and undecided.opening is False
    other.close()
    third = engine.open(SessionConfig(opening=None))
    third.close()
    engine.tick()
    assert third.pull() == [Ended("closed")], "who never begins can leave"


def test_who_cannot_wait_fails_alone() -> None:
    class Talkative(Greeter):
        def wait(self, state: EchoState, waits: Tensor) -> None:
            raise ValueError("there is no text to wait with")

    engine = virtual(Talkative())
    patient, other = engine.open(SessionConfig(opening=False)), engine.open()
    other.push(pcm(1))
    engine.tick()
    assert patient.pull() == [Ended("failed", "there is no text to wait with")]
    assert heard(other) == [16384] and engine.stats.sessions == 1


def test_actions_of_the_agent_are_events() -> None:
    tokenizer = BpeTokenizer.train(["bye"], 258, ("handoff", "hangup"))
    ids = [*tokenizer.encode("by"), tokenizer.actions["hangup"], *tokenizer.encode("e"), tokenizer.actions["handoff"]]
    engine = Engine(Greeter(ids, greeting=0), EngineConfig(1, clock="virtual"), tokenizer)
    session = engine.open()
    session.push(pcm(0, 6 * SIZE))
    for _ in range(6):
        engine.tick()
    events = [event for event in session.pull() if not isinstance(event, Audio)]
    said = [event for event in events if not (isinstance(event, Text) and event.stream == "user_text")]
    texts = [Text("agent_text", letter, at * SIZE) for letter, at in (("b", 0), ("y", 1), ("e", 3))]
    assert said == [*texts[:2], Act("hangup", 2 * SIZE), texts[2], Act("handoff", 4 * SIZE)]
    assert len(events) - len(said) == 3, "what the caller said is no action"


@pytest.mark.parametrize("way", ["output", "step", "callback", "nobody reads"])
def test_who_fails_is_closed_alone(way: str) -> None:
    armed = False

    def trouble(wav: Tensor, state: SumState, output: Tensor) -> None:
        bad = (wav.mean(dim=(1, 2)) < 0) & armed
        if way == "step" and bool(bad.any()):
            raise IndexError("no such token")
        if way == "output":
            output[bad] = float("nan")

    engine = virtual(SumStep(trouble))
    engine.warm_up()
    armed, sessions = True, [engine.open() for _ in range(3)]
    if way == "callback":
        sessions[1].on_events = [].pop
    expected = {
        "output": "not finite",
        "step": "no such token",
        "callback": "pop from empty list",
        "nobody reads": "nobody pulled",
    }
    for number in range(1000):
        for session, level in zip(sessions, (100, -200, 300), strict=True):
            session.push(pcm(level))
        engine.tick()
        if number % 10 == 0 or way != "nobody reads":
            assert {*heard(sessions[0])} == {100} and {*heard(sessions[2])} == {300}, "neighbours hear nothing of it"
        if sessions[1].closing:
            break
    *_, last = sessions[1].pull()
    assert isinstance(last, Ended) and last.reason == "failed" and expected[way] in last.error
    sessions[1].push(pcm(1))
    for session in (sessions[0], sessions[2], engine.open()):
        session.push(pcm(400))
    engine.tick()
    assert engine.stats.sessions == 3 and engine.stats.failures == 1


def test_a_step_that_always_fails_leaves_an_engine_that_works() -> None:
    broken = False

    def trouble(wav: Tensor, state: SumState, output: Tensor) -> None:
        if broken:
            raise MemoryError("no more")

    engine = virtual(SumStep(trouble))
    engine.warm_up()
    broken = True
    sessions = [engine.open(), engine.open()]
    for session in sessions:
        session.push(pcm(1))
    engine.tick()
    assert [session.pull() for session in sessions] == [[Ended("failed", "no more")]] * 2
    broken = False
    session = engine.open()
    session.push(pcm(5))
    engine.tick()
    assert heard(session) == [5]


def test_small_engines_run_as_few_rows_as_they_may() -> None:
    step = SumStep()
    engine = virtual(step, max_sessions=6)
    engine.warm_up()
    step.sizes.clear()
    sessions = [engine.open() for _ in range(3)]
    for count in (3, 2, 1):
        for session in sessions[:count]:
            session.push(pcm(1))
        for session in sessions[count:]:
            session.close()
        engine.tick()
    assert engine.stats.buckets == (1, 2, 4, 6) and step.sizes == [4, 2, 1]


def test_inexact_engines_do_not_ask_what_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2s.engine.engine.agreeing_sizes", lambda *arguments: pytest.fail("asked"))
    engine = Engine(tiny_step(SMALL_SPEC), EngineConfig(2, clock="virtual", exact=False))
    engine.warm_up()
    assert engine.stats.buckets == (1, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_sessions": 0},
        {"clock": "wall"},
        {"max_buffered_s": 0},
        {"threads": 0},
        {"max_late_ticks": -1},
        {"phases": 0},
        {"phases": 9},
    ],
)
def test_senseless_configs_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        EngineConfig(**fields)  # type: ignore[arg-type]


def test_a_live_engine_ticks_by_itself() -> None:
    engine = Engine(EchoStep(20, 1000), EngineConfig(2, threads=1))
    with pytest.raises(RuntimeError, match="only"):
        virtual().start()
    engine.start()
    with pytest.raises(RuntimeError, match="only once"):
        engine.start()
    assert engine.wait_until_warm(WAIT_S)
    session, told = engine.open(), threading.Event()
    session.on_events = told.set
    events: list[object] = []
    session.push(pcm(77, 20))
    while sum(isinstance(event, Audio) for event in events) < 30:
        assert told.wait(WAIT_S)
        told.clear()
        events += session.pull()
    said = [event for event in events if isinstance(event, Audio)]
    assert [event.position for event in said] == list(range(0, 20 * len(said), 20))
    assert any((event.pcm == 77).all() for event in said), "what was pushed came back"
    stats = engine.stats
    assert stats.running and stats.warm and stats.threads == 1
    assert stats.ticks >= 30 and stats.last_tick_s > 0 and stats.underruns > 0
    assert stats.step_ms_counts[-1] >= 30 and len(stats.step_ms_counts) == len(BOUNDS_MS)
    engine.stop()
    assert session.pull()[-1] == Ended("engine stopped") and not engine.stats.running


def test_a_live_engine_survives_a_tick_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(EchoStep(20, 1000), EngineConfig(2, threads=1))
    engine.start()
    assert engine.wait_until_warm(WAIT_S)
    session, ended = engine.open(), threading.Event()
    session.on_events = ended.set
    monkeypatch.setattr("s2s.engine.batch.Batch.run", lambda *arguments: 1 / 0)
    assert ended.wait(WAIT_S)
    assert session.pull()[-1] == Ended("failed", "ZeroDivisionError('division by zero')")
    monkeypatch.undo()
    session, told = engine.open(), threading.Event()
    session.on_events = told.set
    assert told.wait(WAIT_S) and isinstance(session.pull()[0], Audio)
    engine.stop()


def test_an_engine_that_cannot_warm_up_says_so() -> None:
    def trouble(wav: Tensor, state: SumState, output: Tensor) -> None:
        raise OSError("no such weights")

    engine = Engine(SumStep(trouble), EngineConfig(threads=1))
    session = engine.open()
    engine.start()
    with pytest.raises(RuntimeError, match="no such weights"):
        engine.wait_until_warm(WAIT_S)
    assert session.pull()[-1].reason == "failed"  # type: ignore[union-attr]
    with pytest.raises(EngineFull):
        engine.open()
    assert not engine.stats.warm
    engine.stop()
