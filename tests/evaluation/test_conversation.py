import numpy as np
import pytest

from s2s.data.schema import Word
from s2s.evaluation.audibility import Span
from s2s.evaluation.conversation import (
    Stop,
    caller_turns,
    response_gaps,
    stop_latency,
    takeover,
    v2v_ms,
    voice_to_voice,
)

from .tones import RATE, track


def test_v2v_runs_from_the_last_sound_of_the_caller_to_the_first_of_the_agent() -> None:
    caller = track(6.0, (0.5, 1.5), (2.0, 3.0))  # a pause inside the turn
    agent = track(6.0, (0.0, 0.3), (3.24, 5.0))
    assert v2v_ms(caller, agent, RATE) == pytest.approx(240)
    assert v2v_ms(caller, track(6.0, (0.0, 0.3)), RATE) is None
    assert v2v_ms(np.zeros(RATE, dtype=np.float32), agent, RATE) is None


def test_an_answer_inside_the_turn_is_early_and_an_interrupted_one_does_not_count() -> None:
    turn = Span(100, 200)
    assert voice_to_voice(turn, [Span(180, 300)]) == -20
    assert voice_to_voice(turn, [Span(50, 220), Span(250, 300)]) == 50
    assert voice_to_voice(turn, [Span(120, 150), Span(230, 300)]) == 30  # a backchannel before the answer
    assert voice_to_voice(turn, [Span(0, 90)]) is None


def test_each_turn_has_an_answer_of_its_own() -> None:
    turns = [Span(0, 100), Span(300, 400), Span(600, 700)]
    assert response_gaps(turns, [Span(130, 250), Span(705, 800)]) == [30, None, 5]
    assert response_gaps([], [Span(0, 1)]) == []


def test_turns_end_after_a_second_of_silence() -> None:
    caller = track(8.0, (0.5, 1.0), (1.8, 2.5), (4.0, 5.0))
    assert caller_turns(caller, RATE) == [Span(RATE // 2, 5 * RATE // 2), Span(4 * RATE, 5 * RATE)]


def said(*times: tuple[float, float]) -> list[Word]:
    return [Word("word", start, end) for start, end in times]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], 0),
        (said((1.0, 1.4)), 0),
        (said((1.0, 1.2), (1.3, 1.5), (1.6, 1.9)), 0),
        (said((1.0, 1.2), (1.3, 1.5), (1.6, 2.0)), 1),
        (said((1.0, 1.1), (1.2, 1.3), (1.4, 1.5), (1.6, 1.7)), 1),
        (said((1.0, 2.5)), 1),
    ],
)
def test_takeover_leaves_out_backchannels(words: list[Word], expected: int) -> None:
    assert takeover(words) == expected


def test_stop_latency_ends_with_the_last_audible_sample() -> None:
    agent = track(8.0, (1.0, 3.12), (6.0, 7.0))
    assert stop_latency(agent, RATE, 3 * RATE) == Stop(latency=120 * RATE // 1000, yielded=True)
    assert stop_latency(agent, RATE, 5 * RATE) is None


def test_a_duck_below_20_db_is_silence_but_coming_back_within_700_ms_is_no_yield() -> None:
    back_soon = track(9.0, (1.0, 3.1), (3.1, 3.7, 25.0), (3.7, 8.0))
    assert stop_latency(back_soon, RATE, 3 * RATE) == Stop(latency=5 * RATE, yielded=False)
    back_late = track(9.0, (1.0, 3.1), (3.1, 3.85, 25.0), (3.85, 8.0))
    assert stop_latency(back_late, RATE, 3 * RATE) == Stop(latency=RATE // 10, yielded=True)
