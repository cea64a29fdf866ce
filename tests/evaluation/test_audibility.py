import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.evaluation.audibility import Span, audible_spans, frame_levels_db, merge_spans, speech_level_db

from .tones import RATE, track


def seconds(spans: list[Span]) -> list[tuple[float, float]]:
    return [(span.start / RATE, span.end / RATE) for span in spans]


def test_spans_begin_and_end_where_the_speech_does() -> None:
    wav = track(4.0, (0.5, 1.0), (1.1, 1.5), (3.0, 3.25))
    assert seconds(audible_spans(wav, RATE)) == [(0.5, 1.5), (3.0, 3.25)]
    assert seconds(audible_spans(wav, RATE, bridge_ms=50)) == [(0.5, 1.0), (1.1, 1.5), (3.0, 3.25)]
    assert seconds(audible_spans(wav, RATE, bridge_ms=2000)) == [(0.5, 3.25)]


def test_audible_is_within_20_db_of_the_own_speech_level() -> None:
    wav = track(3.0, (0.5, 1.5), (1.5, 2.0, 19.0), (2.0, 2.5, 21.0))
    assert seconds(audible_spans(wav, RATE)) == [(0.5, 2.0)]


def test_level_is_that_of_the_speech_however_little_there_is() -> None:
    expected = 20 * np.log10(0.3) - 3.01
    assert speech_level_db(track(1.0, (0.0, 1.0)), RATE) == pytest.approx(expected, abs=0.1)
    assert speech_level_db(track(60.0, (5.0, 6.0)), RATE) == pytest.approx(expected, abs=0.1)
    wav = track(10.0, (1.0, 3.0))
    wav += 0.003 * np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32)  # a quiet line
    assert speech_level_db(wav, RATE) == pytest.approx(expected, abs=0.2)
    assert seconds(audible_spans(wav, RATE)) == [(1.0, 3.0)]


def test_silence_and_faint_noise_hold_no_speech() -> None:
    assert speech_level_db(np.zeros(RATE, dtype=np.float32), RATE) is None
    noise = 0.0005 * np.random.default_rng(0).standard_normal(RATE)
    assert audible_spans(noise, RATE) == []
    assert audible_spans(np.zeros(0), RATE) == []


def test_a_click_is_not_speech_and_does_not_set_the_level() -> None:
    wav = track(3.0, (1.0, 2.0, 12.0))
    wav[RATE // 2] = 1.0
    assert seconds(audible_spans(wav, RATE)) == [(1.0, 2.0)]


def test_a_known_level_judges_a_track_too_short_to_tell() -> None:
    faint = track(1.0, (0.2, 0.4, 30.0))
    assert seconds(audible_spans(faint, RATE)) == [(0.2, 0.4)]
    assert audible_spans(faint, RATE, level_db=-13.5) == []


def test_the_last_span_ends_with_the_track() -> None:
    wav = track(1.0, (0.5, 1.0))[:-37]
    assert audible_spans(wav, RATE)[-1].end == len(wav)


@given(st.floats(0.05, 3.0), st.integers(0, 50))
def test_gain_changes_nothing_and_delay_only_the_place(gain: float, hops: int) -> None:
    wav = track(2.0, (0.3, 0.9), (1.3, 1.4, 10.0))
    delayed = np.concatenate([np.zeros(hops * RATE // 100, dtype=np.float32), gain * wav])
    assert audible_spans(delayed, RATE) == [span.shifted(hops * RATE // 100) for span in audible_spans(wav, RATE)]


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="one channel"):
        frame_levels_db(np.zeros((2, 100)), RATE)
    with pytest.raises(ValueError, match="11025 Hz"):
        frame_levels_db(np.zeros(100), 11025)
    with pytest.raises(ValueError, match=r"5 \.\.\. 3"):
        Span(5, 3)
    assert merge_spans([Span(0, 5), Span(6, 9), Span(20, 30)], 5) == [Span(0, 9), Span(20, 30)]
