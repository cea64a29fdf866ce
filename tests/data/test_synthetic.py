"""The toy task: the agent plays what the caller played, after the caller."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from s2s.data.align import steps_to_words, words_to_steps
from s2s.data.dialogues import open_source
from s2s.data.synthetic import TONES, ToyEchoConfig, ToyEchoSource
from s2s.text import ByteTokenizer

CONFIG = ToyEchoConfig(num_dialogues=20, duration_s=6.0)


def _pitch(wav: np.ndarray, start_s: float) -> float:
    first = round((start_s + 0.02) * 24_000)
    piece = wav[first : first + 3_840] * np.hanning(3_840)
    return float(np.argmax(np.abs(np.fft.rfft(piece, 1 << 17))) * 24_000 / (1 << 17))


def test_the_agent_repeats_the_caller_after_the_caller() -> None:
    lengths = set()
    for row in map(ToyEchoSource(CONFIG).__getitem__, range(20)):
        row.check()
        assert row.num_samples == 6 * 24_000
        assert [word.text for word in row.agent_words] == [word.text for word in row.user_words]
        assert row.user_words
        lengths.add(len(row.user_words))
        for said, answered in zip(row.user_words, row.agent_words):
            assert answered.start_s > said.end_s
            assert _pitch(row.agent, answered.start_s) == pytest.approx(TONES[said.text], rel=0.005)
            assert _pitch(row.user, said.start_s) == pytest.approx(TONES[said.text], rel=0.02)
        quiet = np.ones(row.num_samples, bool)
        for word in row.agent_words:
            quiet[round(word.start_s * 24_000) - 3 : round(word.end_s * 24_000) + 3] = False
        assert not row.agent[quiet].any()
    assert len(lengths) > 1


def test_rows_are_a_function_of_seed_and_number() -> None:
    one, same = ToyEchoSource(CONFIG)[3], open_source({"kind": "toy_echo", "num_dialogues": 5, "duration_s": 6.0})[3]
    assert np.array_equal(one.user, same.user)
    assert one.user_words == same.user_words
    other = ToyEchoSource(ToyEchoConfig(num_dialogues=20, duration_s=6.0, seed=1))[3]
    assert not np.array_equal(one.user, other.user)
    with pytest.raises(IndexError):
        ToyEchoSource(CONFIG)[20]


def test_its_words_survive_alignment() -> None:
    row, tokenizer, step_s = ToyEchoSource(CONFIG)[0], ByteTokenizer(), Fraction(1, 25)
    back = steps_to_words(words_to_steps(row.agent_words, tokenizer, 150, step_s), tokenizer, step_s)
    assert [word.text for word in back] == [word.text for word in row.agent_words]
    for got, wanted in zip(back, row.agent_words):
        assert got.start_s == pytest.approx(wanted.start_s, abs=0.04)


@pytest.mark.parametrize("change", [{"num_tones": 9}, {"min_sequence": 0}, {"min_sequence": 5, "max_sequence": 4}])
def test_impossible_settings_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ToyEchoConfig(**change)
