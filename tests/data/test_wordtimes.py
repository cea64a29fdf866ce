"""Words placed by length and pauses."""

import numpy as np

from s2s.data.wordtimes import find_pauses, place_words

RATE = 24000


def sound(*pieces: tuple[str, float]) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = [
        rng.normal(0, 0.1, round(s * RATE)) if kind == "speech" else np.zeros(round(s * RATE)) for kind, s in pieces
    ]
    return np.concatenate(made).astype(np.float32)


def test_a_pause_falls_on_the_comma_next_to_it() -> None:
    wav = sound(("silence", 0.2), ("speech", 0.5), ("silence", 0.4), ("speech", 0.9), ("silence", 0.3))
    words = place_words("Okay then, the parcel number please.", wav, RATE)
    assert [word.text for word in words] == ["Okay", "then,", "the", "parcel", "number", "please."]
    np.testing.assert_allclose([words[0].start_s, words[1].end_s, words[2].start_s], [0.2, 0.7, 1.1], atol=0.02)
    np.testing.assert_allclose(words[-1].end_s, 2.0, atol=0.02)
    np.testing.assert_allclose(find_pauses(wav, RATE), [(0.7, 1.1)], atol=0.02)


def test_times_never_go_back_and_stay_in_the_speech() -> None:
    wav = sound(("speech", 0.3), ("silence", 0.2), ("speech", 0.2), ("silence", 0.2), ("speech", 0.4))
    words = place_words("One, two, three, four, five.", wav, RATE, offset_s=5.0)
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[0] >= 5.0
    assert times[-1] <= 6.31


def test_without_pauses_long_words_take_longer() -> None:
    words = place_words("a extraordinary a", sound(("speech", 1.0)), RATE)
    assert words[1].end_s - words[1].start_s > 3 * (words[0].end_s - words[0].start_s)


def test_silence_and_no_words_give_nothing() -> None:
    assert place_words("hello", np.zeros(0, np.float32), RATE) == []
    assert place_words("", sound(("speech", 0.5)), RATE) == []
    assert find_pauses(np.zeros(0, np.float32), RATE) == []
