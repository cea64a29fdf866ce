"""Answers at known places give known times, exactly."""

from collections.abc import Sequence

import numpy as np
import pytest

from s2s.evaluation.answer_times import AnswerTime, Expected, Heard, answer_times, echo_delay, report
from s2s.evaluation.audibility import Span
from tests.evaluation.tones import RATE, track

MS = RATE // 1000
PACKET = 20 * MS


def packets(total: int, buffer: int = 0, late: int = 0) -> list[tuple[int, int]]:
    """(arrived, heard) of packets that are heard without a gap."""
    return [(at + late, at + late + buffer) for at in range(0, total, PACKET)]


def test_voice_to_voice_of_each_turn_and_first_audio() -> None:
    turns = [Span(RATE, 2 * RATE), Span(4 * RATE, 5 * RATE)]
    caller = track(8, (1, 2), (4, 5))
    agent = track(8, (2.25, 3), (5.4, 6))
    times = answer_times(Heard(caller, agent, RATE, turns, packets(len(agent), late=7)))
    assert times == [
        AnswerTime(v2v_ms=250.0, ttfa_ms=7 / MS),
        AnswerTime(v2v_ms=400.0, ttfa_ms=7 / MS),
    ]


def test_no_answer_and_an_early_one() -> None:
    turns = [Span(RATE, 2 * RATE), Span(4 * RATE, 5 * RATE)]
    agent = track(8, (4.9, 6))
    times = answer_times(Heard(track(8, (1, 2), (4, 5)), agent, RATE, turns))
    assert [t.v2v_ms for t in times] == [None, -100.0]
    result = report(times, failures=1, voices=False)
    assert (result["v2v_ms"]["n"], result["v2v_ms"]["failures"], result["early"]) == (3, 2, 1)
    assert "v2v_voice_ms" not in result and "overhead_ms" not in result


def test_a_second_detector_is_counted_beside_the_first() -> None:
    def voices(wav: np.ndarray, rate: int) -> Sequence[Span]:
        return [Span(round(2.28 * RATE), 3 * RATE), Span(round(5.46 * RATE), 6 * RATE)]

    turns = [Span(RATE, 2 * RATE), Span(4 * RATE, 5 * RATE)]
    heard = Heard(track(8, (1, 2), (4, 5)), track(8, (2.25, 3), (5.4, 6)), RATE, turns)
    times = answer_times(heard, voices)
    assert [t.voice_ms for t in times] == [280.0, 460.0]
    result = report(times)
    assert result["detectors_agree"] == {"within_ms": 50.0, "n": 2, "agree": 1}
    assert result["v2v_voice_ms"]["max"] == 460.0


@pytest.mark.parametrize("delay", [0, 1, 1234])
def test_an_echo_to_the_sample(delay: int, rng: np.random.Generator) -> None:
    caller = np.zeros(3 * RATE)
    caller[RATE : 2 * RATE] = 0.1 * rng.standard_normal(RATE)
    agent = np.concatenate([np.zeros(delay), caller])[: len(caller)]
    turn = Span(RATE, 2 * RATE)
    assert echo_delay(caller, agent, RATE, turn) == delay
    assert echo_delay(caller, 0.1 * rng.standard_normal(3 * RATE), RATE, turn) is None
    assert echo_delay(caller, np.zeros(3 * RATE), RATE, turn) is None
    assert echo_delay(caller, agent[:100], RATE, turn) is None


def test_what_an_echo_is_late_does_not_count_the_playout_buffer(rng: np.random.Generator) -> None:
    frame, buffer, late = 40 * MS, 60 * MS, 3 * MS
    caller = np.zeros(3 * RATE)
    caller[RATE : 2 * RATE] = 0.1 * rng.standard_normal(RATE)
    delay = frame + late + buffer
    agent = np.concatenate([np.zeros(delay), caller])[: len(caller)]
    arrivals = packets(3 * RATE, buffer, late)
    heard = Heard(caller, agent, RATE, [Span(RATE, 2 * RATE)], arrivals)
    [time] = answer_times(heard, expected=Expected(frame, echo=True))
    assert (time.echo_ms, time.over_ms) == (103.0, 3.0)


@pytest.mark.parametrize("over", [0, 5, 333])
def test_what_a_scripted_answer_is_late(over: int) -> None:
    delay, buffer = 200 * MS, 40 * MS
    caller = track(6, (1, 2))
    last = int(np.flatnonzero(np.abs(caller) > 0.01)[-1])
    agent = np.zeros(6 * RATE, dtype=np.float32)
    begin = last + 1 + delay + over + buffer
    agent[begin : begin + RATE] = 0.2
    heard = Heard(caller, agent, RATE, [Span(RATE, 2 * RATE)], packets(6 * RATE, buffer))
    [time] = answer_times(heard, expected=Expected(delay))
    assert time.over_ms == over / MS
    # The detector's grid is 10 ms.
    assert time.v2v_ms == pytest.approx((begin - 2 * RATE) / MS, abs=10)


def test_nothing_measured() -> None:
    result = report([], failures=2)
    assert result["v2v_ms"]["n"] == 2 and result["v2v_ms"]["p50"] is None
