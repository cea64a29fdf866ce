"""Listening: clips with their words on the clip's own clock, and an agent who says nothing."""

from pathlib import Path

import numpy as np
import pytest

from s2s.data.clips import load_clips
from s2s.data.compose import MODERATE
from s2s.data.listening import LEAD_S, TAIL_S, ListeningSource
from tests.data.desk_clips import RATE, write_tables


@pytest.fixture
def clips(tmp_path: Path):
    write_tables(tmp_path)
    return load_clips([tmp_path / "callers_0.parquet"], tmp_path / "cache", RATE)


def test_words_keep_their_place_in_the_speech(clips):
    source = ListeningSource(clips, RATE, seed=3)
    assert len(source) == len(clips)
    for index in range(3):
        row = source[index].check()
        assert not row.agent.any() and not row.agent_words
        loud = np.flatnonzero(np.abs(row.user) > 1e-3)
        assert LEAD_S[0] <= loud[0] / RATE <= LEAD_S[1] + 0.01
        assert row.user_words[0].start_s == pytest.approx(loud[0] / RATE, abs=0.03)
        assert row.user_words[-1].end_s == pytest.approx(row.duration_s - TAIL_S, abs=0.03)
        assert " ".join(word.text for word in row.user_words) == " ".join(clips[index].text.split())


def test_a_row_is_a_function_of_seed_and_number(clips):
    one, same, other = (ListeningSource(clips, RATE, MODERATE, seed=seed)[5] for seed in (1, 1, 2))
    assert np.array_equal(one.user, same.user) and one.id == same.id
    assert one.user.size != other.user.size or not np.array_equal(one.user, other.user)
