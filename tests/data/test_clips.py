"""Clips from tables: what is computed, cached and left out."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2s.data.clips import expand, load_clips
from tests.data.desk_clips import burst, caller


def test_clips_are_decoded_once_and_described(tmp_path: Path) -> None:
    path = tmp_path / "a.b.parquet"
    pq.write_table(pa.Table.from_pylist([caller("hello, you", "_hello", 1), caller("bye", "goodbye", 2)]), path)
    clips = load_clips([path], tmp_path / "cache", 24000)
    assert [(clip.text, clip.intent) for clip in clips] == [("hello, you", "hello"), ("bye", "goodbye")]
    assert clips[0].pcm.dtype == np.int16
    assert len(clips[0].pcm) == round(0.95 * 24000)
    assert clips[0].words[0].start_s == pytest.approx(0.05, abs=0.02)
    assert clips[0].words[1].end_s == pytest.approx(0.85, abs=0.02)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    again = load_clips([path], tmp_path / "cache", 24000)
    np.testing.assert_array_equal(again[1].pcm, clips[1].pcm)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}


def test_rows_that_are_not_audio_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"audio": b"junk", "kind": "rain"}, {"audio": burst(0.2, 0), "kind": "dog"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "noise.parquet")
    clips = load_clips([tmp_path / "noise.parquet"], tmp_path / "cache", 8000)
    assert [(clip.kind, len(clip.pcm), clip.words) for clip in clips] == [("dog", 1600, ())]
    assert "1 of 2 rows" in caplog.text


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing"):
        expand([str(tmp_path / "nothing*.parquet")])
