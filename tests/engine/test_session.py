"""One session from both of its sides."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from s2s.engine.session import Audio, BufferFull, Ended, Session, SessionStats, Text

SIZE, RATE = 40, 1000


def new_session(max_buffered: int = 100, max_unread: int = 4 * SIZE) -> Session:
    return Session("call", RATE, SIZE, max_buffered, max_unread)


def pcm(count: int = SIZE) -> np.ndarray:
    return np.arange(count, dtype=np.int16)


@pytest.mark.parametrize(
    "wrong", [pcm().astype(np.float32), pcm()[None], np.int16(3), b"\0\0", [1, 2], pcm().astype(">i2").astype(">i4")]
)
def test_only_int16_samples_of_one_channel_are_taken(wrong: object) -> None:
    session = new_session()
    with pytest.raises(ValueError, match=r"int16 \[N\]"):
        session.push(wrong)  # type: ignore[arg-type]
    assert session.stats.buffered_samples == 0


def test_a_refused_packet_leaves_no_part() -> None:
    session = new_session(max_buffered=100)
    session.push(pcm(100))
    session.push(pcm(0))
    with pytest.raises(BufferFull, match="100 samples wait, 1 more exceed 100"):
        session.push(pcm(1))
    assert session.stats.buffered_samples == 100
    session.next_step(wait=True)
    session.push(pcm(40))


def test_the_caller_may_reuse_its_buffer() -> None:
    session, buffer = new_session(), pcm()
    session.push(buffer)
    buffer[:] = -1
    np.testing.assert_array_equal(session.next_step(wait=True), pcm())


def test_events_come_in_order_once() -> None:
    session, told = new_session(), []
    session.on_events = lambda: told.append(len(told))
    session.add(pcm(), {"agent_text": "", "user_text": " hi"})
    session.add(pcm() + np.int16(1), {})
    first, text, second = session.pull()
    assert isinstance(first, Audio) and isinstance(second, Audio)
    assert text == Text("user_text", " hi", 0)
    assert (first.position, second.position, second.pcm[0]) == (0, SIZE, 1)
    assert session.pull() == [] and told == [0, 1]
    session.add(pcm(), {})
    assert [event.position for event in session.pull() if isinstance(event, Audio)] == [2 * SIZE]


def test_it_ends_once_and_hears_nothing_afterwards() -> None:
    session, told = new_session(), []
    session.on_events = lambda: told.append(True)
    session.push(pcm())
    session.close()
    session.close()
    assert session.closing
    session.push(pcm(10_000))
    session.end("closed")
    session.end("failed", "again")
    assert session.pull() == [Ended("closed")] and told == [True]
    session.close()
    session.push(pcm())
    assert session.stats == SessionStats(0, 0, 0, 0) and session.pull() == []


def test_nobody_reads() -> None:
    session = new_session(max_unread=3 * SIZE)
    for _ in range(3):
        session.add(pcm(), {})
    with pytest.raises(RuntimeError, match=r"nobody pulled the last 0.1 s"):
        session.add(pcm(), {})
    assert len(session.pull()) == 3
    session.add(pcm(), {})


def test_many_threads_lose_nothing() -> None:
    session = Session("call", RATE, SIZE, max_buffered=10**6, max_unread=10**9)
    pulled: list[object] = []

    def write() -> None:
        for _ in range(200):
            session.push(pcm(7))

    def read() -> None:
        while len(pulled) < 300:
            pulled.extend(session.pull())

    threads = [threading.Thread(target=target) for target in (write, write, write, write, read)]
    for thread in threads:
        thread.start()
    for number in range(300):
        session.add(np.full(SIZE, number % 7, np.int16), {})
    for thread in threads:
        thread.join(timeout=30)
    assert session.stats.buffered_samples == 4 * 200 * 7
    assert [event.position for event in pulled if isinstance(event, Audio)] == list(range(0, 300 * SIZE, SIZE))
