"""An agent that begins too early or late: where, with what, and what it has to do then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2s.data.datamodule import DialogueDataConfig, DialogueDataModule
from s2s.data.encoded import BatchKey, EncodedDataset, build_arrow
from s2s.data.schema import EncodedDialogue
from s2s.data.shards import ShardInfo, write_shard
from s2s.data.wrong_starts import ANEW, LATE_FRAMES, Call, false_start, late_start

RATE, PAD = 25, 301
INFO = ShardInfo(2_500, 100, 2, 64, 300, PAD)
PAUSE_S = (2.0, 2.8)


def turn(start_s: float, end_s: float, reply_s: float, **more: Any) -> dict[str, Any]:
    times = {"start_s": start_s, "end_s": end_s, "reply_start_s": reply_s, "reply_end_s": reply_s + 1.0}
    return {**times, "pauses_s": [], "barge_in": False, **more}


def call(first: int, *turns: dict[str, Any], frames: int = 300) -> Call:
    """Each reply is six tokens on end from its start, `first` and those that follow."""
    text = np.full(frames, PAD, np.int16)
    for each in turns:
        begin = round(each["reply_start_s"] * RATE)
        text[begin : begin + 6] = np.arange(first, first + 6)
    return Call(text, {"turns": list(turns)}, RATE, PAD)


CALLS = {
    "paused": call(10, turn(0.4, 4.0, 4.2, pauses_s=[PAUSE_S])),
    "fluent": call(10, turn(0.4, 4.0, 4.2), turn(6.0, 8.0, 8.2)),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_it_begins_another_reply_breaks_off_and_leaves_room_for_the_right_one(name: str) -> None:
    mine, other, seen = CALLS[name], call(50, turn(0.0, 1.5, 2.0)), set()
    for seed in range(200):
        found = false_start(mine, other, np.random.default_rng(seed))
        if found is None:
            continue
        inside = np.zeros(len(mine.text), bool)
        inside[found.begin : found.end] = True
        assert (found.text[~inside] == mine.text[~inside]).all()
        said = found.text[inside]
        assert said[: min(6, len(said))].tolist() == list(range(50, 56))[: len(said)]
        assert 3 <= found.end - found.resumed < 9 and found.begin < found.resumed
        due = next(frame for frame in np.flatnonzero(mine.text != PAD) if frame > found.end)
        assert due - found.end >= ANEW
        in_pause = 4 <= found.begin - PAUSE_S[0] * RATE < 9 and found.resumed == PAUSE_S[1] * RATE
        assert in_pause or found.resumed == found.begin + 1, "amid speech it has to break off at once"
        seen.add(in_pause)
    assert seen == ({True, False} if name == "paused" else {False})


@pytest.mark.parametrize(
    "none",
    [
        call(10, turn(0.4, 1.5, 1.7)),  # too short
        call(10, turn(0.4, 4.0, 4.2, barge_in=True)),  # over a reply
        call(10),
        replace(CALLS["paused"], meta={}),
        replace(CALLS["paused"], meta={"turns": ["of somebody else's", {"start_s": 0.1}]}),
    ],
)
def test_where_there_is_no_room_or_nothing_known_there_is_none(none: Call) -> None:
    other = CALLS["fluent"]
    assert all(false_start(none, other, np.random.default_rng(seed)) is None for seed in range(20))
    if not none.replies():
        assert all(false_start(other, none, np.random.default_rng(seed)) is None for seed in range(20))


def test_it_waits_in_doubt_and_then_says_the_same() -> None:
    mine, lates = call(10, turn(0.4, 4.0, 4.2), turn(8.0, 9.2, 9.4), frames=400), set()
    due = [105, 235]
    for seed in range(100):
        found = late_start(mine, np.random.default_rng(seed))
        assert found is not None and found.begin in due and found.resumed == found.end
        late = found.end - found.begin
        assert LATE_FRAMES[0] <= late < LATE_FRAMES[1]
        at, other = found.begin, next(frame for frame in due if frame != found.begin)
        assert (found.text[at : at + late] == PAD).all()
        assert found.text[at + late : at + late + 6].tolist() == list(range(10, 16))
        assert found.text[other : other + 6].tolist() == list(range(10, 16))
        assert (found.text != PAD).sum() == 12
        lates.add(late)
    assert len(lates) > 10


@pytest.mark.parametrize(
    "crowded",
    [
        call(10, turn(0.4, 4.0, 4.2), turn(5.3, 6.0, 11.0)),  # the caller goes on, and the call ends
        call(10, turn(0.4, 4.0, 4.2), frames=140),
        replace(CALLS["paused"], meta={}),
    ],
)
def test_nobody_can_be_late_where_something_follows(crowded: Call) -> None:
    assert all(late_start(crowded, np.random.default_rng(seed)) is None for seed in range(30))


def shard(folder: Path, heard: bool = True) -> None:
    rows = []
    for number, each in enumerate([CALLS["paused"], CALLS["fluent"]] * 4):
        codes = np.full((2, len(each.text)), 1 if heard else 64, np.int16)
        active = np.zeros(len(each.text), np.uint8)
        rows.append(EncodedDialogue(f"d{number}", codes, codes, each.text, each.text, active, meta=dict(each.meta)))
    write_shard(folder / "shard-00000.parquet", rows, [], INFO)


def dataset(folder: Path, share: float) -> EncodedDataset:
    return EncodedDataset(build_arrow([folder / "shard-00000.parquet"], folder), INFO, share)


def test_rows_are_marked_where_the_agent_errs_and_where_it_stops(tmp_path: Path) -> None:
    shard(tmp_path)
    key = BatchKey(tuple(range(8)), (0, 20) * 4, 250)
    batch, right = dataset(tmp_path, 1.0)[key], dataset(tmp_path, 0.0)[key]
    assert not right["agent_erred"].any() and batch["agent_erred"].any(dim=1).sum() >= 3
    changed = batch["agent_text"][:, 0] != right["agent_text"][:, 0]
    for row, erred in enumerate(batch["agent_erred"]):
        false, late = batch["agent_stopped"][row].any(), erred.any() and not batch["agent_stopped"][row].any()
        if false:  # nothing else changes
            assert changed[row].any() and not (changed[row] & ~erred).any()
        assert not late or changed[row][~erred].any(), "what was to be said comes later"
        # Active while it errs, and then it has stopped from where the caller goes on to where it is silent.
        assert ((batch["agent_active"] | batch["agent_stopped"])[row] == erred).all()
    assert not (batch["agent_active"] & batch["agent_stopped"]).any()
    again = dataset(tmp_path, 1.0)[key]
    assert all((again[name] == batch[name]).all() for name in batch)


def test_calls_that_nobody_hears_have_none(tmp_path: Path) -> None:
    shard(tmp_path, heard=False)
    assert not dataset(tmp_path, 1.0)[BatchKey(tuple(range(8)), (0,) * 8, 250)]["agent_erred"].any()


def test_they_are_for_training_alone(tmp_path: Path) -> None:
    shard(tmp_path)
    folder = str(tmp_path)
    module = DialogueDataModule(DialogueDataConfig((folder,), (folder,), batch_size=8, max_steps=300, wrong_starts=1.0))
    module.prepare_data()
    trained, checked = next(iter(module.train_dataloader())), next(iter(module.val_dataloader()))
    assert trained["agent_erred"].any() and not checked["agent_erred"].any()
