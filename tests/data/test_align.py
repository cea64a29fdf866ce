"""Words to steps and back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data.align import (
    Anchor,
    actions_to_steps,
    clean_words,
    hurried,
    pad_id,
    steps_to_actions,
    steps_to_words,
    words_to_steps,
)
from s2s.data.schema import Action, EncodedDialogue, Word
from s2s.text import BpeTokenizer, ByteTokenizer

STEP = Fraction(960, 24_000)
BYTES = ByteTokenizer()
BPE = BpeTokenizer.train(["my parcel is late", "where is the parcel"] * 5, 290)

texts = st.text(min_size=1, max_size=8).filter(lambda text: text.split() == [text])
words = st.lists(
    st.builds(
        lambda text, start, length: Word(text, start / 1000, (start + length) / 1000),
        texts,
        st.integers(0, 20_000),
        st.integers(0, 2_000),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=150)
@given(words, st.sampled_from([("start", 2), ("start", 0), ("end", -3)]), st.booleans())
def test_words_round_trip(words: list[Word], place: tuple[Anchor, int], bpe: bool) -> None:
    tokenizer = BPE if bpe else BYTES
    anchor, lead = place
    steps = words_to_steps(words, tokenizer, 2_000, STEP, lead, anchor)
    back = steps_to_words(steps, tokenizer, STEP, lead, anchor)
    in_order = sorted(words, key=lambda word: word.start_s if anchor == "start" else word.end_s)
    assert [word.text for word in back] == [word.text for word in in_order]
    times = [word.start_s if anchor == "start" else word.end_s for word in back]
    assert times == sorted(times)
    assert np.array_equal(words_to_steps(back, tokenizer, 2_000, STEP, lead, anchor), steps)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 39)), max_size=8, unique_by=lambda item: item[0]))
def test_times_come_back_to_one_step_when_words_do_not_wait(places: list[tuple[int, int]]) -> None:
    words = [Word("word", (40 + 20 * at) * 0.04 + ms / 1000, (50 + 20 * at) * 0.04) for at, ms in sorted(places)]
    back = steps_to_words(words_to_steps(words, BYTES, 1_000, STEP), BYTES, STEP)
    assert [word.start_s for word in back] == pytest.approx([word.start_s for word in words], abs=0.04)
    heard = steps_to_words(words_to_steps(words, BYTES, 1_000, STEP, -3, "end"), BYTES, STEP, -3, "end")
    assert [word.end_s for word in heard] == pytest.approx([word.end_s for word in words], abs=0.04)


def test_places_by_hand() -> None:
    pad = pad_id(BYTES)
    steps = words_to_steps([Word("a", 0.12, 0.13), Word("b", 0.4, 0.5)], BYTES, 16, STEP, 2)
    assert steps.dtype == np.int16
    assert steps.tolist() == [pad, 32, 97, pad, pad, pad, pad, pad, 32, 98, *[pad] * 6]  # floor(.12 / .04) - 2 = 1
    heard = words_to_steps([Word("a", 0.0, 0.12), Word("b", 0.13, 0.161)], BYTES, 12, STEP, -3, "end")
    assert heard.tolist() == [*[pad] * 6, 32, 97, 32, 98, pad, pad]  # 3 + 3; ceil(.161 / .04) + 3 = 8


def test_a_word_waits_for_the_one_before_and_the_end_is_cut() -> None:
    steps = words_to_steps([Word("abc", 0.0, 0.1), Word("de", 0.04, 0.1)], BYTES, 6, STEP)
    assert steps.tolist() == [32, 97, 98, 99, 32, 100]
    assert words_to_steps([Word("late", 9.0, 9.1)], BYTES, 6, STEP).tolist() == [pad_id(BYTES)] * 6


@pytest.mark.parametrize("text", ["", " ", "two words", "tail "])
def test_a_word_has_no_white_space(text: str) -> None:
    with pytest.raises(ValueError, match="white space"):
        words_to_steps([Word(text, 0.0, 1.0)], BYTES, 10, STEP)


def test_clean_words_splits_sorts_and_drops() -> None:
    got = clean_words([Word(" b ", 2.0, 3.0), Word("", 0.0, 1.0), Word("New York", 0.0, 0.7)])
    assert [word.text for word in got] == ["New", "York", "b"]
    assert got[0].end_s == pytest.approx(0.3)
    assert got[1].start_s == pytest.approx(0.3)
    assert got[1].end_s == 0.7


ACTING = BpeTokenizer.train(["please hold, goodbye"] * 5, 300, ("handoff", "hangup"))


def test_actions_stand_where_nothing_is_said_and_come_back() -> None:
    words = [Word("please", 0.4, 0.6), Word("hold", 0.6, 1.0)]
    steps = words_to_steps(words, ACTING, 60, STEP)
    actions = [Action("handoff", 1.0), Action("hangup", 1.0)]
    actions_to_steps(steps, actions, ACTING, STEP)
    assert [action.name for action in steps_to_actions(steps, ACTING, STEP)] == ["handoff", "hangup"]
    assert steps_to_actions(steps, ACTING, STEP)[0].at_s == pytest.approx(1.0, abs=float(STEP))
    assert steps_to_words(steps, ACTING, STEP) == steps_to_words(words_to_steps(words, ACTING, 60, STEP), ACTING, STEP)
    assert ACTING.decode(steps[steps < ACTING.vocab_size].tolist()) == " please hold"


def test_an_action_that_the_tokenizer_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match="'transfer' is none of the tokenizer's"):
        actions_to_steps(np.full(9, pad_id(ACTING)), [Action("transfer", 0.1)], ACTING, STEP)


def test_a_hurried_row_says_the_same_and_leaves_the_agent_its_time() -> None:
    pad, steps = pad_id(BYTES), 60
    user, agent = np.full(steps, pad, np.int16), np.full(steps, pad, np.int16)
    user[[3, 9, 14, 43]], agent[[20, 26, 36]] = [1, 2, 3, 4], [5, 6, 7]
    codes = np.arange(2 * steps, dtype=np.int16).reshape(2, steps)
    row = EncodedDialogue("a", codes, codes, user, agent, np.ones(steps, np.uint8), meta={"kind": "opening"})
    fast = hurried(row, 0.0, pad)
    assert np.flatnonzero(fast.user_text != pad).tolist() == [3, 4, 5, 20], "6 steps before the caller's next turn"
    assert np.flatnonzero(fast.agent_text != pad).tolist() == [11, 12, 13], "5 steps before the reply, as there were"
    assert fast.num_frames == 20 + (steps - 43) and fast.meta == {"kind": "opening", "pace": 0.0}
    assert fast.user.shape == fast.agent.shape == (2, fast.num_frames) and fast.agent_active.size == fast.num_frames
    half = hurried(row, 0.5, pad)
    assert np.flatnonzero(half.user_text != pad)[:3].tolist() == [3, 6, 9]
    same = hurried(row, 1.0, pad)
    assert np.array_equal(same.user_text, user) and np.array_equal(same.agent_text, agent)


def test_where_both_speak_nothing_is_hurried() -> None:
    pad = pad_id(BYTES)
    user, agent = np.full(30, pad, np.int16), np.full(30, pad, np.int16)
    agent[[2, 8, 14]], user[[5, 11]] = [1, 2, 3], [4, 5]
    codes = np.zeros((2, 30), np.int16)
    fast = hurried(EncodedDialogue("a", codes, codes, user, agent, np.zeros(30, np.uint8)), 0.0, pad)
    assert fast.num_frames == 30
