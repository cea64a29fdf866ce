"""Calls that are only written: what the desk's rules say, in words with times, and codes that say nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from s2s.data.clips import Clip, expand, load_clips
from s2s.data.desk import load_desk
from s2s.data.encode import EncodeConfig, Encoder, encode_dialogues
from s2s.data.encoded import BatchKey, EncodedDataset, build_arrow
from s2s.data.shards import common_info, shard_files
from s2s.data.wishes import CORRECTIONS
from s2s.data.written import ONLY_WORDS, WRITTEN, Line, WrittenCalls, place_by_letters, with_digits
from s2s.phrases import DIGIT_WORDS
from s2s.text import BpeTokenizer
from tests.data.desk_clips import DESK, RATE, write_tables
from tests.data.fake_codec import FakeCodec

LINES = [
    Line("Where is my parcel?", "track"),
    Line("How long does it take?", "delivery_time"),
    Line("Um, nine eight, oh two.", "give_number", "9802"),
    Line("One one seven four.", "give_number", "1174"),
    Line("Yes, that is it.", "confirm_number_yes"),
    Line("No, wrong.", "confirm_no"),
    Line("Goodbye.", "goodbye"),
    Line("Thanks a lot.", "thanks"),
]
WEIGHTS = {"track": 4.0}
TOKENIZER = BpeTokenizer.train([line.text for line in LINES], 300, ("handoff", "hangup"))


@pytest.fixture
def replies(tmp_path: Path) -> list[Clip]:
    write_tables(tmp_path)
    return load_clips(expand([str(tmp_path / "agent.parquet")]), tmp_path / "cache", RATE)


def calls(replies: list[Clip], count: int = 60, seed: int = 0) -> WrittenCalls:
    whole = replace(ONLY_WORDS, barge_in=0.0, over_opening=0.0)  # replies are not cut
    return WrittenCalls(load_desk(DESK), replies, LINES, WEIGHTS, count, seed=seed, config=whole)


def test_numbers_that_no_clip_says_are_read_back_and_decide_what_follows(replies: list[Clip]) -> None:
    desk, known = load_desk(DESK), {clip.digits for clip in replies}
    numbers, statuses = set(), set()
    for call in calls(replies):
        call.check()
        said = {"user": [], "agent": []}
        for name, words in (("user", call.user_words), ("agent", call.agent_words)):
            said[name] = [word.text for word in words]
        number = ""
        for turn in call.meta["turns"]:
            if turn["intent"] == "give_number":
                number = turn["digits"]
                numbers.add(number)
                assert turn["reply_text"] == desk.read_back("give_number", number)
                assert turn["reply_text"] in " ".join(said["agent"])
            if turn["intent"] == "confirm_number_yes":
                assert turn["reply_text"] == desk.status(number)[1]
                statuses.add(turn["reply_text"])
            assert 0.1 < turn["reply_start_s"] - turn["end_s"] < 0.4
    assert numbers == {"9802", "1174"} and not numbers & known
    assert len(statuses) == 2


def test_a_caller_who_was_not_understood_may_not_be_again(replies: list[Clip]) -> None:
    lines = [*LINES, Line("Mm, the, uh.", "filler_unclear"), Line("Do you sell shoes?", "out_of_scope")]
    found = WrittenCalls(load_desk(DESK), replies, lines, WEIGHTS, 60, config=ONLY_WORDS, unclear_again=1.0)
    pairs = [pair for call in found for pair in pairwise(turn["reply"] for turn in call.meta["turns"])]
    after = {second for first, second in pairs if first in ("unclear", "out_of_scope")}
    assert after == {"unclear_again"}


def test_callers_correct_what_is_read_back_as_often_as_wanted(replies: list[Clip]) -> None:
    desk, answers = load_desk(DESK), []
    with pytest.raises(ValueError, match=r"corrections is 0.9, allowed is 0 to 0.88"):
        WrittenCalls(desk, replies, LINES, WEIGHTS, 120, corrections=0.9)
    for share in (0.0, CORRECTIONS, 0.85):
        found = WrittenCalls(desk, replies, LINES, WEIGHTS, 120, config=ONLY_WORDS, corrections=share)
        pairs = [pair for call in found for pair in pairwise(call.meta["turns"])]
        said = [second["intent"] for first, second in pairs if first["reply"] == "give_number"]
        answers.append(said.count("confirm_no") / len(said))
    assert answers[0] == 0 and 0.1 < answers[1] < 0.35 and answers[2] > 0.75


def test_a_call_is_a_function_of_seed_and_number(replies: list[Clip]) -> None:
    first, again, other = (calls(replies, seed=seed)[3] for seed in (0, 0, 1))
    assert first.user_words == again.user_words and first.meta == again.meta
    assert first.user_words != other.user_words


def test_words_take_as_long_as_their_letters(replies: list[Clip]) -> None:
    short, long = (list(place_by_letters(text, 1.0)) for text in ("Yes, it is.", "Internationally, it is."))
    assert long[0].end_s > 2 * short[0].end_s
    assert all(a.end_s <= b.start_s for a, b in pairwise(long))
    assert short[1].start_s > short[0].end_s and short[2].start_s == short[1].end_s
    assert next(place_by_letters("Yes", 2.0)).end_s == pytest.approx(next(place_by_letters("Yes", 1.0)).end_s / 2)


def test_a_read_back_of_other_digits_keeps_its_times(replies: list[Clip]) -> None:
    clip = next(clip for clip in replies if clip.digits == "4271")
    other = with_digits(clip, "0980")
    assert other.text == clip.text.replace("four two seven one", "zero nine eight zero")
    assert [word.start_s for word in other.words] == [word.start_s for word in clip.words]
    assert {w.text.strip(".") for w in other.words} & set(DIGIT_WORDS) == {"zero", "nine", "eight"}
    with pytest.raises(ValueError, match="says 4 digits, not the 5"):
        with_digits(clip, "09801")


def test_what_is_lacking_is_named(replies: list[Clip]) -> None:
    with pytest.raises(ValueError, match=r"no clip of the replies \['refund'\]"):
        calls([clip for clip in replies if clip.key != "refund"])
    with pytest.raises(ValueError, match="no clip reads 4 digits back, as '1174' needs"):
        calls([clip for clip in replies if not clip.digits])
    with pytest.raises(IndexError):
        calls(replies)[60]


def test_shards_hold_their_words_and_no_sound(replies: list[Clip], tmp_path: Path) -> None:
    encoder = Encoder(FakeCodec(), TOKENIZER, EncodeConfig(rows_per_shard=4, batch_size=3))
    source = calls(replies, count=6)
    encode_dialogues(source, encoder, tmp_path / "shards")
    files = shard_files([tmp_path / "shards"])
    info = common_info(files)
    assert info.recipe["source"] == WRITTEN
    batch = EncodedDataset(build_arrow(files, tmp_path), info)[BatchKey((0, 1), (0, 0), 50)]
    assert (batch["user"] == info.codebook_size + 1).all() and (batch["agent"] == info.codebook_size + 1).all()
    assert (batch["user_text"] != info.text_pad_id).any() and (batch["agent_text"] != info.text_pad_id).any()
    assert batch["agent_active"].any(), "when the agent would speak is known"


def test_beside_others_only_written_calls_have_no_sound(replies: list[Clip]) -> None:
    encoder = Encoder(FakeCodec(), TOKENIZER, EncodeConfig())
    written = encoder.prepare(calls(replies)[0], 0)
    spoken = encoder.prepare(calls(replies)[1], 1)
    spoken.written = ()
    spoken.user[:] = np.sin(np.arange(spoken.num_samples))
    rows, alone = encoder.encode([written, spoken], ""), encoder.encode([spoken], "")
    silence = encoder.codec.spec.codebook_size + 1
    assert (rows[0].user == silence).all() and (rows[0].agent == silence).all()
    assert (rows[1].user == alone[0].user).all() and (rows[1].user < silence - 1).all()


def test_hurried_calls_say_the_same_in_fewer_steps(replies: list[Clip]) -> None:
    desk, encoder = load_desk(DESK), Encoder(FakeCodec(), TOKENIZER, EncodeConfig())
    slow, fast = (WrittenCalls(desk, replies, LINES, WEIGHTS, 8, paces=paces) for paces in ((1.0,), (0.0,)))
    pad = TOKENIZER.vocab_size + 1
    for number in range(8):
        rows = [encoder.encode([encoder.prepare(source[number], 0)], "")[0] for source in (slow, fast)]
        said = [[row.user_text[row.user_text != pad], row.agent_text[row.agent_text != pad]] for row in rows]
        assert all(np.array_equal(a, b) for a, b in zip(*said, strict=True))
        assert rows[1].num_frames < rows[0].num_frames
    with pytest.raises(ValueError, match="allowed is 1 where the agent is heard"):
        WrittenCalls(desk, replies, LINES, WEIGHTS, 8, spoken=True, paces=(1.0, 0.5))
    with pytest.raises(ValueError, match=r"pace 0\.5, allowed .* only where both tracks are written"):
        replace(fast[0], written=("user",), pace=0.5).check()


def test_an_agent_who_is_heard_reads_back_what_it_has_been_recorded_with(replies: list[Clip]) -> None:
    desk, line = load_desk(DESK), Line("Um, three three, five six.", "give_number", "3356")
    source = WrittenCalls(desk, replies, [*LINES, line], WEIGHTS, 30, spoken=True)
    assert {t["digits"] for i in range(30) for t in source[i].meta["turns"]} == {"", "3356"}
    encoder = Encoder(FakeCodec(), TOKENIZER, EncodeConfig())
    (row,) = encoder.encode([encoder.prepare(source[0], 0)], "")
    silence = encoder.codec.spec.codebook_size + 1
    assert (row.user == silence).all() and (row.agent < silence - 1).all() and row.agent_active.any()
