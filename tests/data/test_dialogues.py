"""Dialogue rows from every layout: what comes back, and what is said about rows that are corrupt."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from s2s.audio.io import write_wav
from s2s.config import to_dict
from s2s.data.dialogues import open_source
from s2s.data.folder import write_folder
from s2s.data.moshi_finetune import write_moshi_finetune
from s2s.data.schema import Action, Dialogue, DialogueError, Word
from s2s.data.table import ColumnMap, ParquetRows, TableSource, write_table
from s2s.data.tracks import ChannelMap

RATE = 8_000


def dialogue(number: int, seconds: float = 0.5) -> Dialogue:
    rng = np.random.default_rng(number)
    user, agent = (rng.uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32) for _ in range(2))
    user_words = [Word("hello", 0.05, 0.125), Word("there", 0.2, 0.3)]
    return Dialogue(f"call-{number}", user, agent, RATE, user_words, [Word("hi,", 0.31, 0.4)], {"line": number})


def same(got: Dialogue, wanted: Dialogue, meta: bool = True) -> None:
    assert got.sample_rate == wanted.sample_rate
    np.testing.assert_allclose(got.user, wanted.user, atol=1 / 32_768)
    np.testing.assert_allclose(got.agent, wanted.agent, atol=1 / 32_768)
    assert got.user_words == wanted.user_words
    assert got.agent_words == wanted.agent_words
    assert not meta or got.meta == wanted.meta
    got.check()


def test_moshi_finetune_round_trips(tmp_path: Path) -> None:
    wanted = [dialogue(n) for n in range(3)]
    assert write_moshi_finetune(wanted, tmp_path / "train.jsonl") == 3
    source = open_source({"kind": "moshi_finetune", "path": str(tmp_path / "train.jsonl")})
    assert len(source) == 3
    for index, row in enumerate(wanted):
        same(source[index], row)
    assert source.row_id(1) == "train_stereo/call-1.wav"


def test_moshi_finetune_keeps_actions(tmp_path: Path) -> None:
    row = dialogue(0)
    row.actions = [Action("handoff", 0.45)]
    write_moshi_finetune([row], tmp_path / "a.jsonl")
    source = open_source({"kind": "moshi_finetune", "path": str(tmp_path / "a.jsonl")})
    assert source[0].actions == row.actions
    same(source[0], row)
    path = tmp_path / "a_stereo/call-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"actions": ["handoff"]}))
    with pytest.raises(DialogueError, match="actions are"):
        source[0]


def test_moshi_finetune_layout_is_agent_left_with_the_main_speaker(tmp_path: Path) -> None:
    row = dialogue(0)
    write_moshi_finetune([row], tmp_path / "a.jsonl")
    line = json.loads((tmp_path / "a.jsonl").read_text())
    assert line == {"path": "a_stereo/call-0.wav", "duration": 0.5}
    wav, _ = soundfile.read(tmp_path / line["path"], dtype="float32")
    np.testing.assert_allclose(wav[:, 0], row.agent, atol=1 / 32_768)
    fields = json.loads((tmp_path / "a_stereo/call-0.json").read_text())
    assert fields["alignments"] == [
        ["hello", [0.05, 0.125], "SPEAKER_OTHER"],
        ["there", [0.2, 0.3], "SPEAKER_OTHER"],
        ["hi,", [0.31, 0.4], "SPEAKER_MAIN"],
    ]


def test_the_channel_map_swaps_tracks_and_speakers_are_configurable(tmp_path: Path) -> None:
    row = dialogue(0)
    write_moshi_finetune([row], tmp_path / "a.jsonl")
    fields = {"kind": "moshi_finetune", "path": str(tmp_path / "a.jsonl"), "agent_speakers": ["SPEAKER_OTHER"]}
    got = open_source({**fields, "channels": to_dict(ChannelMap(agent=1, user=0))})[0]
    np.testing.assert_allclose(got.user, row.agent, atol=1 / 32_768)
    assert got.user_words == row.agent_words
    with pytest.raises(ValueError, match="two different"):
        open_source({**fields, "channels": {"agent": 1, "user": 1}})


def test_two_dialogues_with_one_file_name_are_refused(tmp_path: Path) -> None:
    first, second = dialogue(0), dialogue(1)
    first.id, second.id = "a/b", "a b"
    with pytest.raises(ValueError, match="'a_b'"):
        write_moshi_finetune([first, second], tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "line 1 is not a record"),
        ('{"path": "a_stereo/call-0.wav"}', "line 1 is not a record"),
        ('{"path": "gone.wav", "duration": 0.5}', "no such file"),
        ('{"path": "a_stereo/call-0.wav", "duration": 9.5}', "wrong duration: 0.50 s where 9.50 s"),
        ('{"path": "mono.wav", "duration": 0.5}', "1 channels"),
        ('{"path": "cut.wav", "duration": 0.5}', "truncated"),
        ('{"path": "empty.wav", "duration": 0.5}', "empty"),
        ('{"path": "words.wav", "duration": 0.5}', "word entry"),
    ],
)
def test_corrupt_lines_give_their_reason(tmp_path: Path, line: str, reason: str) -> None:
    write_moshi_finetune([dialogue(0)], tmp_path / "a.jsonl")
    data = (tmp_path / "a_stereo/call-0.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[:3_000])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "words.wav").write_bytes(data)
    (tmp_path / "words.json").write_text('{"alignments": [["a", [0.0], "SPEAKER_MAIN"]]}')
    write_wav(tmp_path / "mono.wav", dialogue(0).user, RATE)
    (tmp_path / "a.jsonl").write_text(line + "\n")
    source = open_source({"kind": "moshi_finetune", "path": str(tmp_path / "a.jsonl")})
    with pytest.raises(ValueError, match=reason):
        source[0]
    assert source.row_id(0)


def test_a_folder_round_trips_and_mixes_layouts(tmp_path: Path) -> None:
    wanted = [dialogue(n) for n in range(2)]
    write_folder(wanted, tmp_path)
    both = dialogue(2)
    (tmp_path / "sub").mkdir()
    write_wav(tmp_path / "sub" / "both.wav", np.stack([both.agent, both.user]), RATE)
    lines = ["user 0.05 0.125 hello", "user 0.2 0.3 there", "", "agent 0.31 0.4 hi,"]
    (tmp_path / "sub" / "both.txt").write_text("\n".join(lines))
    source = open_source({"kind": "folder", "path": str(tmp_path)})
    assert [source.row_id(i) for i in range(len(source))] == ["call-0", "call-1", "sub/both"]
    for index, row in enumerate([*wanted, both]):
        same(source[index], row, meta=False)


def test_corrupt_folders_give_their_reason(tmp_path: Path) -> None:
    row = dialogue(0)
    for name, wav, rate in (
        ("a.user", row.user, RATE),
        ("b.user", row.user, RATE),
        ("b.agent", row.agent[:-1_000], RATE),
        ("c.user", row.user, RATE),
        ("c.agent", row.agent, 2 * RATE),
        ("d.user", np.stack([row.user, row.user]), RATE),
        ("d.agent", row.agent, RATE),
        ("e.user", row.user, RATE),
        ("e.agent", row.agent, RATE),
    ):
        write_wav(tmp_path / f"{name}.wav", wav, rate)
    (tmp_path / "e.txt").write_text("caller 0 1 hello\n")
    source = open_source({"kind": "folder", "path": str(tmp_path)})
    reasons = ["only the track of the user", "unequal tracks", "unequal rates", "2 channels", "line 1"]
    assert len(source) == len(reasons)
    for index, reason in enumerate(reasons):
        with pytest.raises(DialogueError, match=reason):
            source[index]
    with pytest.raises(ValueError, match="not a folder"):
        open_source({"kind": "folder", "path": str(tmp_path / "none")})


def test_ends_that_differ_by_less_than_a_frame_are_cut(tmp_path: Path) -> None:
    row = dialogue(0)
    write_wav(tmp_path / "a.user.wav", row.user, RATE)
    write_wav(tmp_path / "a.agent.wav", row.agent[:-100], RATE)
    got = open_source({"kind": "folder", "path": str(tmp_path)})[0].check()
    assert got.user.size == got.agent.size == row.user.size - 100


def test_a_table_round_trips(tmp_path: Path) -> None:
    wanted = [dialogue(n) for n in range(5)]
    columns = write_table(wanted, tmp_path / "a.parquet", rows_per_group=2)
    files = [str(tmp_path / "a.parquet")]
    source = open_source({"kind": "table", "files": files, "columns": to_dict(columns)})
    assert [source.row_id(i) for i in range(len(source))] == [row.id for row in wanted]
    for index in (3, 0, 4, 1, 2):
        same(source[index], wanted[index], meta=False)
        assert json.loads(source[index].meta["meta"]) == wanted[index].meta


def _flac(wav: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav, RATE, format="FLAC")
    return file.getvalue()


def test_a_datasets_table_with_audio_features_is_read_undecoded(tmp_path: Path) -> None:
    row = dialogue(0)
    table = datasets.Dataset.from_dict(
        {
            "caller": [{"bytes": _flac(row.user), "path": None}] * 2,
            "agent": [{"bytes": _flac(row.agent), "path": None}] * 2,
            "said": [json.dumps([["hello", 0.05, 0.125], {"word": "there", "start": 0.2, "end": 0.3}])] * 2,
        }
    )
    table = table.cast_column("caller", datasets.Audio()).cast_column("agent", datasets.Audio())
    source = TableSource.from_dataset(table, ColumnMap(user="caller", agent="agent", user_words="said"))
    got = source[1]
    assert got.user_words == row.user_words
    np.testing.assert_allclose(got.user, row.user, atol=1e-4)
    np.testing.assert_allclose(got.agent, row.agent, atol=1e-4)
    with pytest.raises(ValueError, match="no column nobody"):
        TableSource.from_dataset(table, ColumnMap(user="nobody", agent="agent"))


def test_corrupt_cells_give_their_reason(tmp_path: Path) -> None:
    row = dialogue(0)
    good = _flac(np.stack([row.agent, row.user], axis=1))
    rows = [
        {"audio": None, "rate": RATE, "words": "[]"},
        {"audio": b"", "rate": RATE, "words": "[]"},
        {"audio": good[: len(good) // 2], "rate": RATE, "words": "[]"},
        {"audio": good, "rate": 44_100, "words": "[]"},
        {"audio": good, "rate": RATE, "words": "{"},
        {"audio": good, "rate": RATE, "words": '[["hi", [0.0, 1.0]]]'},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    columns = to_dict(ColumnMap(stereo="audio", alignments="words", sample_rate="rate"))
    source = open_source({"kind": "table", "files": [str(tmp_path / "a.parquet")], "columns": columns})
    reasons = [
        "no audio",
        "no audio",
        "FLAC|truncated|not audio",
        "wrong rate: 8000 Hz where 44100",
        "not JSON",
        "alignment",
    ]
    for index, reason in enumerate(reasons):
        with pytest.raises(ValueError, match=reason):
            source[index]


def test_one_row_group_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"x": list(range(7)), "y": [0] * 7}), tmp_path / "a.parquet", row_group_size=3)
    rows = ParquetRows([str(tmp_path / "a.parquet")], ["x"])
    reads = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, *a, **k: reads.append(a[0]) or read(self, *a, **k)
    )
    assert [rows[i] for i in range(len(rows))] == [{"x": i} for i in range(7)]
    assert reads == [0, 1, 2]
    with pytest.raises(IndexError):
        rows[7]


def test_a_column_map_and_a_kind_are_checked(tmp_path: Path) -> None:
    for fields in ({}, {"stereo": "a", "user": "b", "agent": "c"}, {"user": "b"}, {"stereo": "a", "agent": "c"}):
        with pytest.raises(ValueError, match="either stereo"):
            ColumnMap(**fields)
    with pytest.raises(ValueError, match="allowed are moshi_finetune, table"):
        open_source({"kind": "csv"})
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not a parquet file"):
        open_source({"kind": "table", "files": [str(tmp_path / "a.parquet")], "columns": {"stereo": "a"}})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user": np.zeros(10, np.float32)}, "unequal tracks"),
        ({"user": np.zeros(0, np.float32)}, "user track is empty"),
        ({"agent": np.full(4_000, np.nan, np.float32)}, "agent track holds NaN"),
        ({"agent": np.zeros((2, 4_000), np.float32)}, "shape"),
        ({"sample_rate": 0}, "sample rate 0"),
        ({"user_words": [Word("a", 2.0, 1.0)]}, "'a' runs from 2.0 to 1.0"),
        ({"user_words": [Word("a", float("nan"), 1.0)]}, "runs from nan"),
        ({"agent_words": [Word("a", 5.0, 6.0)]}, "after the end"),
    ],
)
def test_a_dialogue_checks_itself(change: dict[str, object], reason: str) -> None:
    row = dialogue(0)
    for name, value in change.items():
        setattr(row, name, value)
    with pytest.raises(DialogueError, match=reason):
        row.check()
