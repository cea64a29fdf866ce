"""Recordings of callers: read, normalised, annotated, composed."""

import json
from pathlib import Path

import numpy as np
import pytest

from s2s.audio.io import write_wav
from s2s.evaluation.audibility import Span, audible_spans, speech_level_db
from s2s.evaluation.given_calls import LEVEL_DB, SHIPPED, compose, normalise, read_given_calls
from tests.evaluation.tones import RATE, track


def listed(tmp_path: Path, *lines: object) -> Path:
    write_wav(tmp_path / "a.wav", np.stack([track(2, (0.5, 1.5)), track(2)]), RATE)
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines) + "\n")
    return path


def test_a_list_of_recordings(tmp_path: Path) -> None:
    path = listed(tmp_path, {"audio": "a.wav", "speech": [[0.5, 1.5]]}, "", {"audio": "a.wav", "speech": [[0, 2]]})
    first, second = read_given_calls(path, RATE)
    assert (first.name, first.turns, first.duration_s) == ("a", (Span(RATE // 2, 3 * RATE // 2),), 2.0)
    assert speech_level_db(first.caller, RATE) == pytest.approx(LEVEL_DB, abs=0.1)
    assert first.checksums == second.checksums and len(first.checksums[0]) == 64


def test_a_folder_with_a_json_beside_each_recording(tmp_path: Path) -> None:
    write_wav(tmp_path / "b.wav", track(1, (0.2, 0.8)), RATE)
    with pytest.raises(ValueError, match=r"b\.json with 'speech' would"):
        read_given_calls(tmp_path, RATE)
    (tmp_path / "b.json").write_text('{"speech": [[0.2, 0.8]]}')
    [call] = read_given_calls(tmp_path, 2 * RATE)
    assert call.turns == (Span(round(0.4 * RATE), round(1.6 * RATE)),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "line 1 has no 'audio'"),
        ({"audio": "a.wav"}, "'speech' must be"),
        ({"audio": "a.wav", "speech": []}, "'speech' must be"),
        ({"audio": "a.wav", "speech": [[1, 0.5]]}, "'speech' must be"),
        ({"audio": "a.wav", "speech": [[0.5, 3]]}, "'speech' must be"),
        ({"audio": "a.wav", "speech": [[-1, 1]]}, "'speech' must be"),
        ({"audio": "a.wav", "speech": [["x", 1]]}, "'speech' must be"),
        ({"audio": "a.wav", "speech": [[0, 1]], "channel": 2}, "no channel 2"),
        ({"audio": "none.wav", "speech": [[0, 1]]}, "none.wav: no such file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_given_calls(listed(tmp_path, line), RATE)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no recordings"):
        read_given_calls(tmp_path, RATE)


def test_the_shipped_annotation_is_where_the_speech_is() -> None:
    for recording in read_given_calls(SHIPPED, 24000):
        audible = audible_spans(recording.caller, 24000)
        assert recording.turns == (Span(audible[0].start, audible[-1].end),)


def test_calls_of_several_turns() -> None:
    recordings = read_given_calls(SHIPPED, 24000)
    first, second = compose(recordings, 2, 3.0)
    assert (first.name, second.name) == ("refund+opening_hours", "opening_hours+refund")
    assert len(first.turns) == 2 and set(first.checksums) == set(second.checksums)
    for turn, recording in zip(first.turns, recordings, strict=True):
        said = recording.caller[recording.turns[0].start : recording.turns[0].end]
        np.testing.assert_array_equal(first.caller[turn.start : turn.end], said)
    assert not first.caller[-3 * 24000 :].any()


def test_silence_has_no_level_to_bring_to() -> None:
    assert not normalise(np.zeros(RATE, dtype=np.float32), RATE).any()
