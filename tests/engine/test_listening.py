"""What is heard when input comes in time, late or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from s2s.engine.listening import InputQueue

SIZE, RATE = 40, 1000
"""Steps of 40 ms of one sample per millisecond: a packet is 20 samples, the fade 60, a pause 500."""


def loud(count: int, value: int = 1000) -> np.ndarray:
    return np.full(count, value, dtype=np.int16)


def queue_of(*packets: np.ndarray) -> InputQueue:
    queue = InputQueue(SIZE, RATE)
    for packet in packets:
        queue.push(packet)
    return queue


def test_packets_of_any_size_come_out_as_steps() -> None:
    pcm = np.arange(5 * SIZE, dtype=np.int16)
    rng = np.random.default_rng(0)
    for take in (InputQueue.take, InputQueue.take_now):
        queue = queue_of(*np.split(pcm, np.sort(rng.integers(0, len(pcm), 17))))
        assert queue.size == len(pcm)
        np.testing.assert_array_equal(np.concatenate([take(queue) for _ in range(5)]), pcm)
        assert (queue.size, queue.has_step, queue.underruns) == (0, False, 0)


def test_before_a_caller_begins_there_is_silence_and_no_fault() -> None:
    queue = queue_of(loud(SIZE - 1))
    assert not queue.take_now().any()
    queue.push(loud(1))
    assert (queue.take_now() == 1000).all()
    assert queue.underruns == 0


def test_missing_input_is_the_last_packet_fading_then_silence() -> None:
    queue = queue_of(np.concatenate([loud(20, 500), np.arange(1000, 1020, dtype=np.int16)]))
    queue.take_now()
    concealed = np.concatenate([queue.take_now() for _ in range(3)])
    packet = np.arange(1000, 1020)
    gain = 1 - np.arange(60) / 60
    np.testing.assert_allclose(concealed[:60], np.tile(packet, 3) * gain, atol=1)
    assert not concealed[60:].any()
    assert queue.underruns == 3


def test_a_part_of_a_step_is_heard_and_the_rest_concealed() -> None:
    queue = queue_of(loud(SIZE), loud(30, -2000))
    queue.take_now()
    step = queue.take_now()
    assert (step[:30] == -2000).all() and step[30] == -2000 and -2000 < step[-1] < 0
    assert (queue.underruns, queue.size) == (1, 0)


def test_a_caller_who_pauses_is_not_late() -> None:
    queue = queue_of(loud(SIZE))
    queue.take_now()
    for _ in range(100):
        queue.take_now()
    assert queue.underruns == pytest.approx(500 / SIZE, abs=1)
    queue.push(loud(SIZE // 2))
    assert not queue.take_now().any() and queue.size == SIZE // 2


def test_late_input_is_heard_and_caught_up_in_quiet() -> None:
    queue = queue_of(loud(SIZE))
    queue.take_now()
    for _ in range(5):  # a network that holds back 200 ms
        queue.take_now()
    queue.push(loud(6 * SIZE, 3000))
    for _ in range(10):
        queue.push(loud(SIZE, 0))
    heard = [queue.take_now() for _ in range(11)]
    assert sum((step == 3000).all() for step in heard) == 6, "every word is heard"
    assert queue.skipped == 5 * SIZE, "what was concealed is made up for in the pause"
    assert queue.size == 0 and queue.underruns == 5


def test_quiet_is_left_out_only_by_those_who_are_late() -> None:
    queue = queue_of(*[loud(SIZE, 0)] * 20)
    for left in range(19, -1, -1):
        queue.take_now()
        assert queue.size == left * SIZE
    assert queue.skipped == 0
    queue.push(loud(20 * SIZE, 0))
    queue.owe(2 * SIZE)
    queue.take_now()
    assert queue.skipped == 2 * SIZE


@pytest.mark.parametrize(
    ("packets", "waits"),
    [
        ([loud(20, 0)] * 3, 0),  # quiet packets of 20 ms, one more than a step takes
        ([loud(10, 50)] * 5, 0),
        ([loud(20)] * 3, 20),  # speech
        ([loud(20, 0)] * 2, 0),
        ([loud(20, 0)] * 4, 40),  # more than a packet too many: they came in a burst
        ([loud(60, 0)], 20),  # the next one comes in 60 ms
    ],
)
def test_what_waits_as_a_caller_begins_does_not_wait_for_ever(packets: list[np.ndarray], waits: int) -> None:
    queue = queue_of(*packets)
    total = queue.size
    for later in range(3):
        assert len(queue.take_now()) == SIZE
        assert (queue.size, queue.skipped) == (waits, total - SIZE - waits), later
        queue.push(loud(SIZE))
    queue.push(loud(20, 0))
    queue.take_now()
    assert queue.size == waits + 20, "only as a caller begins"
