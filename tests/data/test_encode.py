"""Encoding: the rows that come out, resuming, repeatability, and corrupt rows set aside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from s2s.data.augment import AugmentConfig
from s2s.data.encode import EncodeConfig, EncodeError, EncodeProgress, Encoder, active_frames, encode_dialogues
from s2s.data.schema import Action, Dialogue, DialogueError, EncodedDialogue, Word
from s2s.data.shards import common_info, read_shard, shard_files
from s2s.text import ByteTokenizer
from tests.data.fake_codec import FakeCodec


class ListSource:
    """Dialogues of a list; an exception in the list is raised when its row is read."""

    name = "list"

    def __init__(self, rows: list[Dialogue | Exception]) -> None:
        self.rows = rows
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def row_id(self, index: int) -> str:
        return f"row-{index}"

    def __getitem__(self, index: int) -> Dialogue:
        self.reads.append(index)
        row = self.rows[index]
        if isinstance(row, Exception):
            raise row
        return row


def _dialogue(number: int, rate: int = 5_000) -> Dialogue:
    rng = np.random.default_rng(number)
    size = round(rate * (1 + 0.17 * (number % 5)))
    user, agent = (rng.uniform(-0.9, 0.9, size).astype(np.float32) for _ in range(2))
    words = [Word("hi", 0.1, 0.2), Word("you", 0.4, 0.5)]
    return Dialogue(f"d{number}", user, agent, rate, words, [Word("yes", 0.52, 0.7)], {"n": number})


def _source(count: int = 10) -> ListSource:
    return ListSource([_dialogue(number) for number in range(count)])


def _encoder(**changes: object) -> Encoder:
    return Encoder(FakeCodec(), ByteTokenizer(), EncodeConfig(**{"rows_per_shard": 4, "batch_size": 3, **changes}))


def _rows(folder: Path) -> list[EncodedDialogue]:
    return [EncodedDialogue.from_row(row) for file in shard_files([folder]) for row in pq.read_table(file).to_pylist()]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_rows_hold_codes_text_and_activity_of_each_dialogue(tmp_path: Path) -> None:
    seen: list[EncodeProgress] = []
    count = encode_dialogues(_source(), _encoder(chunk_s=0.3), tmp_path, seen.append)
    rows = _rows(tmp_path)
    assert [row.id for row in rows] == [f"d{number}" for number in range(10)]
    for number, row in enumerate(rows):
        dialogue = _dialogue(number)
        frames = -(-dialogue.num_samples // 200)
        for track in ("user", "agent"):
            wav = torch.zeros(1, 1, frames * 200)
            wav[0, 0, : dialogue.num_samples] = torch.from_numpy(getattr(dialogue, track))
            assert np.array_equal(getattr(row, track), FakeCodec().encode(wav)[0].numpy())
        assert row.num_frames == frames
        assert bytes(row.user_text[8:11].astype(np.uint8)) == b" hi"  # ceil(0.2 / 0.04) + 3
        assert bytes(row.agent_text[12:16].astype(np.uint8)) == b" yes"  # floor(0.52 / 0.04) - 1
        assert (row.agent_text[:12] == 257).all()
        assert row.agent_active.all()
        assert row.meta == {"n": number}
        assert row.source == "list"
    assert [progress.shards for progress in seen] == [1, 2, 3]
    assert seen[-1] == count
    assert (count.rows, count.num_rows, count.bad_rows, count.num_shards) == (10, 10, 0, 3)
    assert count.audio_s == pytest.approx(sum(row.num_frames for row in rows) / 25)
    info = common_info(shard_files([tmp_path]))
    assert (info.num_codebooks, info.text_vocab_size, info.text_pad_id) == (2, 256, 257)
    assert (tmp_path / "quarantine.jsonl").read_text() == ""


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    encode_dialogues(ListSource([_dialogue(1, rate=8_000)]), _encoder(), tmp_path)
    assert _rows(tmp_path)[0].num_frames == 30  # ceil(1.17 s * 25)


def test_a_stopped_run_goes_on_where_it_was_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    augmented = {"augment": AugmentConfig(), "passes": 2, "seed": 5}
    encode_dialogues(_source(), _encoder(**augmented), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(progress: EncodeProgress) -> None:
        if progress.shards == 2:
            raise Stop

    with pytest.raises(Stop):
        encode_dialogues(_source(), _encoder(**augmented), tmp_path / "parts", stop)
    assert len(shard_files([tmp_path / "parts"])) == 2
    source = _source()
    count = encode_dialogues(source, _encoder(**augmented), tmp_path / "parts")
    assert sorted(source.reads) == sorted([8, 9, *range(10)])  # rows 0 to 7 were done
    assert count.rows == 20
    assert _bytes(tmp_path / "parts") == _bytes(tmp_path / "whole")
    assert [row.id for row in _rows(tmp_path / "whole")][8:12] == ["d8#0", "d9#0", "d0#1", "d1#1"]


def test_every_dialogue_and_every_pass_is_augmented_in_its_own_way(tmp_path: Path) -> None:
    rows = [replace(_dialogue(4), id=f"d{number}") for number in range(3)]
    config = AugmentConfig(gain_chance=1.0, noise_chance=1.0)
    encode_dialogues(ListSource(rows), _encoder(augment=config, passes=2), tmp_path)
    encoded = _rows(tmp_path)
    assert len({row.user.tobytes() for row in encoded}) == 6
    assert len({row.agent.tobytes() for row in encoded}) == 1
    assert np.array_equal(rows[0].user, _dialogue(4).user)


def test_parts_share_the_work_and_give_the_same_shards(tmp_path: Path) -> None:
    encode_dialogues(_source(), _encoder(), tmp_path / "one")
    for part in (1, 0):
        encode_dialogues(_source(), _encoder(part=part, parts=2), tmp_path / "two")
    assert _bytes(tmp_path / "two") == _bytes(tmp_path / "one")


def test_a_finished_run_does_nothing(tmp_path: Path) -> None:
    first = encode_dialogues(_source(), _encoder(), tmp_path)
    source, encoder = _source(), _encoder()
    assert encode_dialogues(source, encoder, tmp_path) == first
    assert source.reads == []
    assert encoder.codec.encoded_samples == 0


@pytest.mark.parametrize("changes", [{"lead_steps": 2}, {"seed": 1}, {"augment": AugmentConfig()}])
def test_shards_made_otherwise_are_not_mixed(tmp_path: Path, changes: dict[str, object]) -> None:
    encode_dialogues(_source(), _encoder(), tmp_path)
    with pytest.raises(ValueError, match=next(iter(changes))):
        encode_dialogues(_source(), _encoder(**changes), tmp_path)


def test_codecs_are_told_apart_by_the_weights_that_make_tokens(tmp_path: Path) -> None:
    class WeightedCodec(torch.nn.Module, FakeCodec):
        def __init__(self, value: float, decoder: float) -> None:
            torch.nn.Module.__init__(self)
            FakeCodec.__init__(self)
            self.weight = torch.nn.Parameter(torch.tensor([value], dtype=torch.bfloat16))
            self.scale = torch.nn.Parameter(torch.tensor(1.0))
            self.decoder = torch.nn.Linear(1, 1)
            torch.nn.init.constant_(self.decoder.weight, decoder)

    def encoder(value: float, decoder: float = 0.0) -> Encoder:
        torch.manual_seed(0)
        return Encoder(WeightedCodec(value, decoder), ByteTokenizer(), EncodeConfig())

    encode_dialogues(_source(2), encoder(1.0), tmp_path)
    encode_dialogues(_source(2), encoder(1.0), tmp_path)
    encode_dialogues(_source(2), encoder(1.0, decoder=1.0), tmp_path)
    with pytest.raises(ValueError, match="codec"):
        encode_dialogues(_source(2), encoder(2.0), tmp_path)


def _corrupt() -> ListSource:
    source = _source()
    source.rows[2] = DialogueError("the file is truncated")
    source.rows[7].agent[3] = np.nan
    source.rows[8].user = source.rows[8].user[:-700]
    return source


def test_corrupt_rows_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    count = encode_dialogues(_corrupt(), _encoder(max_bad_fraction=0.3), tmp_path)
    assert (count.rows, count.bad_rows) == (10, 3)
    assert [row.id for row in _rows(tmp_path)] == ["d0", "d1", "d3", "d4", "d5", "d6", "d9"]
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["shard"], row["row"], row["id"]) for row in listed] == [
        ("shard-00000.parquet", 2, "row-2"),
        ("shard-00001.parquet", 7, "row-7"),
        ("shard-00002.parquet", 8, "row-8"),
    ]
    assert [row["reason"][:20] for row in listed] == [
        "the file is truncate",
        "agent track holds Na",
        "unequal tracks: user",
    ]
    again = encode_dialogues(_corrupt(), _encoder(max_bad_fraction=0.3), tmp_path)
    assert again == count


def test_corrupt_rows_above_the_budget_fail_the_run_and_are_listed(tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match=r"2 of 8 rows are corrupt, allowed are 15\.0% of 10"):
        encode_dialogues(_corrupt(), _encoder(max_bad_fraction=0.15), tmp_path)
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 2
    with pytest.raises(EncodeError):
        encode_dialogues(_corrupt(), _encoder(max_bad_fraction=0.15), tmp_path)


def test_a_shard_of_corrupt_rows_only_is_an_empty_table(tmp_path: Path) -> None:
    source = ListSource([DialogueError("gone")] * 4 + [_dialogue(0)])
    encode_dialogues(source, _encoder(max_bad_fraction=1.0), tmp_path)
    assert read_shard(tmp_path / "shard-00000.parquet").num_rows == 0
    assert [row.id for row in _rows(tmp_path)] == ["d0"]


def test_an_error_of_ours_is_not_a_corrupt_row(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        encode_dialogues(ListSource([TypeError("bug")]), _encoder(max_bad_fraction=1.0), tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_broken_shards_and_empty_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dialogues"):
        encode_dialogues(ListSource([]), _encoder(), tmp_path)
    encode_dialogues(_source(), _encoder(), tmp_path)
    file = tmp_path / "shard-00001.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="shard-00001"):
        encode_dialogues(_source(), _encoder(), tmp_path)
    with pytest.raises(ValueError, match="no shards"):
        shard_files([tmp_path / "none"] if (tmp_path / "none").mkdir() is None else [])


def test_a_row_whose_columns_contradict_each_other_is_refused() -> None:
    codes, text = np.zeros((2, 5), np.int16), np.zeros(5, np.int16)
    row = EncodedDialogue("a", codes, codes, text, text, np.zeros(5, np.uint8)).to_row()
    assert EncodedDialogue.from_row(row).user.shape == (2, 5)
    for name in ("user", "agent_text", "agent_active"):
        with pytest.raises(DialogueError, match=name):
            EncodedDialogue.from_row({**row, name: row[name][:-2]})


def test_active_frames_follow_the_voice_and_not_its_level() -> None:
    wav = np.zeros(20 * 100, np.float32)
    wav[500:800] = 0.3 * np.sin(np.arange(300))
    for gain in (1.0, 0.1):
        assert active_frames(gain * wav, 100).tolist() == [0] * 4 + [1] * 5 + [0] * 11
    assert not active_frames(np.zeros(500, np.float32), 100).any()


def test_a_write_that_fails_half_way_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = pq.write_table

    def half(table: object, path: Path, **options: object) -> None:
        write(table, path, **options)
        path.write_bytes(path.read_bytes()[:200])
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="disk full"):
        encode_dialogues(_source(), _encoder(), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["quarantine.jsonl", "tokenizer.json"]
    monkeypatch.undo()
    assert encode_dialogues(_source(), _encoder(), tmp_path).rows == 10


def test_an_action_without_a_token_sets_the_row_aside(tmp_path: Path) -> None:
    rows = _source(4).rows
    rows[1] = replace(rows[1], actions=[Action("handoff", 0.5)])
    done = encode_dialogues(ListSource(rows), _encoder(max_bad_fraction=0.5), tmp_path)
    assert (done.rows, done.bad_rows) == (4, 1)
    reason = json.loads((tmp_path / "quarantine.jsonl").read_text())["reason"]
    assert reason == "actions ['handoff'] are none of the tokenizer's: []"
