"""Turns: windows of calls whose tracks still belong together."""

from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest

from s2s.data.schema import EncodedDialogue
from s2s.data.shards import ShardInfo, read_shard, shard_files, shard_path, write_shard
from s2s.data.turns import TurnConfig, cut_turns, write_turns

FRAME_S = Fraction(1, 25)


def turn(**changes):
    base = {"intent": "price", "reply": "price", "start_s": 4.0, "reply_start_s": 6.0, "barge_in": False}
    return base | changes


def call(turns, frames=300):
    count = np.arange(frames, dtype=np.int16)
    codes = np.stack([count, count])
    return EncodedDialogue(
        "call", codes, codes, count, count, np.zeros(frames, np.uint8), "desk", {"turns": turns, "split": "train"}
    )


def test_a_window_goes_from_before_the_words_into_the_reply():
    config = TurnConfig(before_s=(0.2, 0.2), reply_s=1.0)
    (cut,) = cut_turns(call([turn()]), FRAME_S, config, np.random.default_rng(0))
    assert cut.user[0, 0] == 95  # (4.0 - 0.2) s
    assert cut.agent_text[-1] == 174  # up to 7.0 s
    assert cut.num_frames == 80
    assert all((track == cut.user_text).all() for track in (*cut.user, *cut.agent, cut.agent_text))
    assert cut.meta == {"intent": "price", "call": "call", "split": "train"}


@pytest.mark.parametrize("changes", [{"barge_in": True}, {"reply": "repeat_of_something"}])
def test_replies_that_need_the_call_before_are_left_out(changes):
    assert not list(cut_turns(call([turn(**changes)]), FRAME_S, TurnConfig(), np.random.default_rng(0)))


def test_the_ends_of_a_call_are_respected():
    turns = [turn(start_s=0.05, reply_start_s=2.0), turn(start_s=9.0, reply_start_s=11.5)]
    first, last = cut_turns(call(turns), FRAME_S, TurnConfig(), np.random.default_rng(0))
    assert first.user[0, 0] == 0
    assert last.user[0, -1] == 299


def test_shards_of_turns_mean_what_the_calls_mean(tmp_path):
    info = ShardInfo(24000, 960, 2, 512, 300, 301)
    (tmp_path / "calls").mkdir()
    write_shard(shard_path(tmp_path / "calls", 0), [call([turn(), turn(start_s=8.0, reply_start_s=9.0)])], [], info)
    assert write_turns(tmp_path / "calls", tmp_path / "turns") == 2
    (file,) = shard_files([tmp_path / "turns"])
    assert read_shard(file).info.meaning() == info.meaning()
    assert [row["id"] for row in pq.read_table(file).to_pylist()] == ["call/0", "call/1"]


def test_calls_without_turns_are_refused(tmp_path):
    write_shard(shard_path(tmp_path, 0), [call([])], [], ShardInfo(24000, 960, 2, 512, 300, 301))
    with pytest.raises(ValueError, match="no turns"):
        write_turns(tmp_path, tmp_path / "turns")
