"""Pairs of recordings in both layouts, and what is said of wrong ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2s.audio.io import write_wav
from s2s.data.schema import Word
from s2s.evaluation.full_duplex import score
from s2s.evaluation.pairs import find_pairs, open_sample
from s2s.evaluation.recognise import Transcript
from tests.evaluation.tones import RATE, track


class Hears:
    def transcribe(self, wav: np.ndarray, sample_rate: int, word_times: bool = True) -> Transcript:
        return Transcript("heard", (Word("heard", 1.0, 2.5),))


def folder(path: Path, annotation: str = "", content: Any = None, output: Any = None) -> Path:
    path.mkdir(parents=True)
    write_wav(path / "input.wav", track(4), RATE)
    write_wav(path / "output.wav", track(4, (1.0, 1.4)), RATE)
    if annotation:
        (path / annotation).write_text(json.dumps(content))
    if output is not None:
        (path / "output.json").write_text(json.dumps(output))
    return path


SAID = {"text": "yes it is", "chunks": [{"text": " yes", "timestamp": [1.5, 1.7]}, {"text": "is", "timestamp": [2, 3]}]}


def test_folders_of_the_four_tasks(tmp_path: Path) -> None:
    folder(tmp_path / "pause" / "1", "pause.json", [{"timestamp": [1, 2]}], SAID)
    folder(tmp_path / "turn" / "1", "turn_taking.json", [{"timestamp": [1.25, 0.0]}], SAID)
    folder(tmp_path / "barge" / "1", "interrupt.json", [{"timestamp": [0.5, 1.0]}], SAID)
    folder(tmp_path / "listen" / "7", output={"chunks": []})
    pairs = find_pairs(tmp_path, {"7": [0.0, 1.0]})
    assert [(p.task, p.turn_end_s) for p in pairs] == [
        ("interruption", 1.0), ("backchannel", None), ("pause_handling", None), ("turn_taking", 1.25),
    ]  # fmt: skip
    assert pairs[0].words == (Word("yes", 1.5, 1.7), Word("is", 2.0, 3.0))
    assert pairs[1].people == (0.0, 1.0)
    scores = [score(open_sample(pair, None)) for pair in pairs]
    assert [s.takeover for s in scores] == [1, 0, 1, 1]
    assert (scores[0].latency_s, scores[1].backchannels, scores[3].latency_s) == (0.5, 1, 0.25)


def test_words_are_heard_where_none_are_given(tmp_path: Path) -> None:
    folder(tmp_path / "1", "pause.json", [])
    [pair] = find_pairs(tmp_path)
    assert score(open_sample(pair, Hears())).takeover == 1
    with pytest.raises(ValueError, match="no words are given"):
        open_sample(pair, None)


def test_a_list_of_samples(tmp_path: Path) -> None:
    write_wav(tmp_path / "s.wav", np.stack([track(3), track(3, (1, 2))]), RATE)
    lines = [
        {"task": "turn_taking", "stereo": "s.wav", "turn_end_s": 0.5, "words": [["hello", 1.0, 2.0]]},
        {"task": "backchannel", "output": "s.wav", "words": []},
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = find_pairs(tmp_path / "l.jsonl")
    assert score(open_sample(first, None)).latency_s == 0.5
    assert (first.channel, second.channel) == (1, 0)
    assert open_sample(second, None).spans == []
    assert first.checksum == second.checksum


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ('{"task": "singing", "output": "s.wav"}', "'task' must be one of"),
        ('{"task": "turn_taking"}', "neither 'output' nor 'stereo'"),
        ('{"task": "turn_taking", "output": "s.wav", "words": [["a", 1]]}', "'words' must be"),
        ('{"task": "turn_taking", "output": "s.wav", "turn_end_s": "soon"}', "'turn_end_s' a number"),
        ("", "holds no samples"),
    ],
)
def test_mistakes_in_a_list(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=message):
        find_pairs(path)


def test_mistakes_in_folders(tmp_path: Path) -> None:
    folder(tmp_path / "a" / "1", "turn_taking.json", [{}])
    with pytest.raises(ValueError, match="two times"):
        find_pairs(tmp_path / "a")
    folder(tmp_path / "b" / "1", "pause.json", [], {"text": "x"})
    with pytest.raises(ValueError, match="has no 'chunks'"):
        find_pairs(tmp_path / "b")
    (folder(tmp_path / "c" / "1", "pause.json", []) / "interrupt.json").write_text("[]")
    with pytest.raises(ValueError, match="different tasks"):
        find_pairs(tmp_path / "c")
    write_wav(tmp_path / "m.wav", track(1), RATE)
    (tmp_path / "l.jsonl").write_text('{"task": "pause_handling", "stereo": "m.wav", "words": []}')
    with pytest.raises(ValueError, match="no channel 1"):
        open_sample(find_pairs(tmp_path / "l.jsonl")[0], None)
