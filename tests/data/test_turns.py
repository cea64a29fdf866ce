"""Single turns: calls that end soon after the first reply has begun."""

from pathlib import Path

import numpy as np
import pytest

from s2s.data.calls import CallConfig
from s2s.data.compose import DeskSource
from s2s.data.schema import Dialogue, Word
from s2s.data.turns import SingleTurns, first_turn
from tests.data.desk_clips import write_tables

RATE, FRAME = 24000, 960


def call(**changes) -> Dialogue:
    turn = {"intent": "price", "digits": "", "start_s": 1.0, "reply_start_s": 2.0, "reply_end_s": 5.0} | changes
    wav = np.arange(8 * RATE, dtype=np.float32) / (8 * RATE)
    caller = [Word("price", 1.0, 1.5), Word("yes", 6.0, 6.2)]
    agent = [Word("a", 2.1, 2.4), Word("parcel", 2.9, 3.4), Word("costs", 4.0, 4.5)]
    return Dialogue("call", wav, wav, RATE, caller, agent, {"turns": [turn, turn], "kind": "x"})


def test_the_beginning_of_the_reply_is_kept_and_the_rest_is_not():
    cut = first_turn(call(), 1.2, FRAME).check()
    assert cut.num_samples == 3.2 * RATE
    assert [word.text for word in cut.agent_words] == ["a", "parcel"]
    assert [word.text for word in cut.user_words] == ["price"]
    assert len(cut.meta["turns"]) == 1
    assert (cut.agent == call().agent[: cut.num_samples]).all()


def test_digits_are_read_back_to_the_end():
    cut = first_turn(call(digits="4271"), 1.2, FRAME)
    assert cut.num_samples == 5.0 * RATE
    assert len(cut.agent_words) == 3


def test_a_cut_lies_on_a_frame_boundary_and_inside_the_call():
    assert first_turn(call(reply_start_s=2.013), 1.2, FRAME).num_samples % FRAME == 0
    assert first_turn(call(), 90.0, FRAME).num_samples == 8 * RATE


def test_a_call_without_turns_is_refused():
    silent = call()
    silent.meta = {}
    with pytest.raises(ValueError, match="names no turns"):
        first_turn(silent, 1.2, FRAME)


def test_a_source_of_turns_is_shorter_than_its_calls(tmp_path: Path):
    config = write_tables(tmp_path)
    calls = DeskSource(type(config)(**{**vars(config), "num_dialogues": 6, "call": CallConfig(caller_first=1.0)}))
    turns = SingleTurns(calls, FRAME)
    assert len(turns) == 6 and turns.row_id(3) == calls.row_id(3)
    for i in range(6):
        cut = turns[i].check()
        assert cut.num_samples < calls[i].num_samples
        assert (cut.user == calls[i].user[: cut.num_samples]).all()
