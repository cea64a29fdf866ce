"""Packets are heard when they can be, in order, and silence where there is none."""

from itertools import pairwise

import numpy as np
import pytest

from s2s.audio.playout import Playout

RATE = 1000


def packet(value: int, size: int = 20) -> np.ndarray:
    return np.full(size, value, dtype=np.int16)


def heard(playout: Playout, stop: int) -> list[tuple[int, int, int]]:
    """Runs of one value: (value, start, stop), silence left out."""
    track = playout.heard(0, stop)
    edges = [0, *(np.flatnonzero(np.diff(track)) + 1).tolist(), stop]
    return [(int(track[a]), a, b) for a, b in pairwise(edges) if track[a]]


def test_packets_in_time_are_played_without_a_gap_after_the_buffer() -> None:
    playout = Playout(RATE, buffer_ms=40)
    for number in range(3):
        playout.receive(100 + 20 * number + number, packet(number + 1))
    assert heard(playout, 300) == [(1, 140, 160), (2, 160, 180), (3, 180, 200)]
    assert playout.underruns == 0


def test_a_late_packet_is_an_underrun_and_waits_for_the_buffer_again() -> None:
    playout = Playout(RATE, buffer_ms=10)
    playout.receive(0, packet(1))
    playout.receive(35, packet(2))
    assert heard(playout, 200) == [(1, 10, 30), (2, 45, 65)]
    assert (playout.underruns, playout.missing) == (1, 15)


def test_silence_between_answers_is_no_underrun() -> None:
    playout = Playout(RATE)
    playout.receive(5, packet(1))
    playout.pause()
    playout.receive(500, packet(2))
    assert heard(playout, 600) == [(1, 5, 25), (2, 500, 520)]
    assert playout.underruns == 0


def test_an_answer_behind_one_that_still_plays_follows_it() -> None:
    playout = Playout(RATE, buffer_ms=40)
    playout.receive(0, packet(1, 100))
    playout.pause()
    playout.receive(50, packet(2))
    assert heard(playout, 200) == [(1, 40, 140), (2, 140, 160)]


def test_clearing_cuts_what_is_not_played_yet() -> None:
    playout = Playout(RATE)
    playout.receive(0, packet(1, 500))
    playout.clear(123)
    playout.receive(200, packet(2))
    assert heard(playout, 600) == [(1, 0, 123), (2, 200, 220)]
    assert playout.underruns == 0
    playout.clear(900)
    assert heard(playout, 600)[-1] == (2, 200, 220)


def test_silence_is_left_out_until_the_delay_is_gone() -> None:
    playout = Playout(RATE, buffer_ms=20, catch_up=True)
    playout.receive(0, packet(1000))
    for number in range(10):  # a hitch of the server, which then sends everything at once
        playout.receive(300, packet(0 if number > 1 else 2000))
    playout.receive(300, packet(3000))
    assert heard(playout, 600) == [(1000, 20, 40), (2000, 320, 360), (3000, 380, 400)]
    assert playout.skipped == 140


def test_sound_is_never_left_out() -> None:
    playout = Playout(RATE, catch_up=True)
    for number in range(50):
        playout.receive(0, packet(100 + number))
    assert len(np.flatnonzero(playout.heard(0, 2000))) == 1000
    assert playout.skipped == 0


def test_a_call_longer_than_expected() -> None:
    playout = Playout(RATE)
    for number in range(500):
        playout.receive(20 * number, packet(1 + number % 7))
    assert len(playout.heard(0, 20_000)) == 20_000
    assert playout.heard(9980, 10_000).tolist() == [1 + 499 % 7] * 20


def test_what_came_before_the_call_is_heard_at_its_start() -> None:
    playout = Playout(RATE)
    playout.receive(-30, packet(3))
    assert heard(playout, 50) == [(3, 0, 20)]


def test_a_buffer_below_nothing() -> None:
    with pytest.raises(ValueError, match="-1 ms"):
        Playout(RATE, -1)
