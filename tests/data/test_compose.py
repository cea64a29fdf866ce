"""Composed calls: repeatable, on the clock, true to the desk's rules, held-out wordings kept apart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s2s.data.augment import AugmentConfig
from s2s.data.calls import CallConfig
from s2s.data.compose import ComposeConfig, Composer, DeskSource, iter_dialogues
from s2s.data.desk import DeskCall, split_of
from s2s.data.schema import Dialogue
from s2s.data.utterances import Speaker
from tests.data.desk_clips import write_tables

FRAME_S = 0.04


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ComposeConfig:
    call = CallConfig(barge_in=0.3, backchannel=0.4, over_opening=0.4, nobody_speaks=0.1, thinking_pause=0.4)
    return replace(write_tables(tmp_path_factory.mktemp("desk")), call=call)


@pytest.fixture(scope="module")
def composer(config: ComposeConfig) -> Composer:
    return Composer(config)


@pytest.fixture(scope="module")
def calls(composer: Composer) -> list[Dialogue]:
    return [composer.compose(3, "train", index).check() for index in range(120)]


def test_calls_are_a_function_of_seed_split_and_number(config: ComposeConfig, calls: list[Dialogue]) -> None:
    again = list(iter_dialogues(config, 3, "train", start=40, count=2))
    for one, two in zip(calls[40:42], again, strict=True):
        assert one.id == two.id
        assert one.meta == two.meta
        np.testing.assert_array_equal(one.user, two.user)
        np.testing.assert_array_equal(one.agent, two.agent)
    assert not np.array_equal(calls[40].agent[:48000], calls[41].agent[:48000])


def test_replies_come_on_frames_and_within_the_gap(calls: list[Dialogue]) -> None:
    turns = [turn for call in calls for turn in call.meta["turns"]]
    gaps = np.array([turn["reply_start_s"] + 0.02 - turn["end_s"] for turn in turns])
    assert gaps.min() > 0.1599
    assert gaps.max() < 0.2801
    frames = np.array([turn["reply_start_s"] for turn in turns]) / FRAME_S
    np.testing.assert_allclose(frames, frames.round(), atol=1e-3)
    assert all(call.num_samples % 960 == 0 and call.duration_s <= 24 for call in calls)


def test_agent_is_silent_while_the_caller_speaks_unless_it_was_speaking(calls: list[Dialogue]) -> None:
    for call in calls:
        for turn in call.meta["turns"]:
            start, end = (round(turn[key] * 24000) for key in ("start_s", "end_s"))
            stop = start + round(0.12 * 24000) if turn["barge_in"] else start
            assert not call.agent[stop + 1 : end].any(), (call.id, turn)


def test_barge_in_stops_the_agent_after_80_to_120_ms(calls: list[Dialogue]) -> None:
    delays = []
    for call in calls:
        stops = [event["at_s"] for event in call.meta["events"] if event["kind"] == "agent_stops"]
        starts = [turn["start_s"] for turn in call.meta["turns"] if turn["barge_in"]]
        assert len(stops) == len(starts)
        delays += [stop - start for stop, start in zip(stops, starts, strict=True)]
        for stop in stops:
            assert not call.agent[round(stop * 24000) : round(stop * 24000) + 960].any()
    assert len(delays) > 20
    assert 0.0799 < min(delays) <= max(delays) < 0.1201


def test_agent_goes_on_over_a_nod(calls: list[Dialogue]) -> None:
    nods = [(call, e) for call in calls for e in call.meta["events"] if e["kind"] == "backchannel"]
    assert nods
    for call, nod in nods:
        end = round(nod["end_s"] * 24000)
        assert call.agent[end : end + 480].any()


def test_expected_replies_follow_the_rules(composer: Composer, calls: list[Dialogue]) -> None:
    heard = set()
    for call in calls:
        if any(event["kind"] in ("still_there", "give_up") for event in call.meta["events"]):
            continue
        state = DeskCall(composer.material.desk)
        if call.meta["kind"] != "caller_first":
            state.open()
        for turn in call.meta["turns"]:
            assert state.hear(turn["intent"], turn["digits"]).text == turn["reply_text"]
            heard.add(turn["intent"])
    assert {"track_with_number", "confirm_number_yes", "price", "repeat"} <= heard


def test_words_stand_where_the_sound_is(calls: list[Dialogue]) -> None:
    for call in calls[:30]:
        for wav, words in ((call.user, call.user_words), (call.agent, call.agent_words)):
            for word in words:
                middle = round(0.5 * (word.start_s + word.end_s) * 24000)
                assert np.abs(wav[middle - 240 : middle + 240]).max() > 1e-3, (call.id, word)
        said = [w for turn in call.meta["turns"] for w in turn["text"].split()]
        nods = [w for e in call.meta["events"] if e["kind"] == "backchannel" for w in e["text"].split()]
        assert sorted(word.text for word in call.user_words) == sorted(said + nods)


def test_nobody_waits_less_than_six_seconds_for_are_you_still_there(calls: list[Dialogue]) -> None:
    asked = [(call, e) for call in calls for e in call.meta["events"] if e["kind"] == "still_there"]
    assert asked
    for call, event in asked:
        at = round(event["start_s"] * 24000)
        assert not call.agent[at - round(5.9 * 24000) : at].any()


def test_held_out_wordings_never_train(composer: Composer, calls: list[Dialogue]) -> None:
    for call in calls:
        for turn in call.meta["turns"]:
            assert turn["phrasing_split"] == "train"
            assert split_of(turn["text"], turn["digits"]) == "train"
    held_out = [t for i in range(60) for t in composer.compose(0, "test", i).meta["turns"]]
    assert any(turn["phrasing_split"] == "test" for turn in held_out)


def test_thinking_pause_moves_the_later_words(composer: Composer) -> None:
    callers, speaker = composer.material.callers, Speaker("af_x", 1.0, 1.0, 1.0)
    pair = callers.two_parts("price", "train", speaker, 0.5, np.random.default_rng(0))
    assert pair is not None
    (start, end), later = pair.pauses_s[0], pair.words[5]
    assert end - start == pytest.approx(0.5)
    assert (later.text, round(later.start_s, 2)) == ("what", round(end, 2))
    assert not pair.wav[round(start * 24000) + 1 : round(end * 24000) - 1].any()


def test_numbers_that_the_agent_cannot_say_are_left_out(composer: Composer) -> None:
    found = [clip.digits for texts in composer.material.callers.by_text.values() for c in texts.values() for clip in c]
    assert "4271" in found
    assert "5555" not in found


def test_augmentation_changes_the_caller_only(config: ComposeConfig, calls: list[Dialogue]) -> None:
    loud = AugmentConfig(noise_chance=1.0, room_chance=0.0, echo_chance=0.0)
    source = DeskSource(replace(config, augment=loud, seed=3, num_dialogues=2))
    assert len(source) == 2
    call = source[1]
    assert call.id == source.row_id(1) == calls[1].id
    np.testing.assert_array_equal(call.agent, calls[1].agent)
    assert not np.array_equal(call.user, calls[1].user)
    with pytest.raises(IndexError):
        source[2]


def test_wrong_settings_are_named(config: ComposeConfig, composer: Composer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'dev'"):
        composer.compose(0, "dev", 0)
    with pytest.raises(ValueError, match="turns"):
        CallConfig(turns=(0.5, 0.1))
    with pytest.raises(ValueError, match="no clips match"):
        Composer(replace(config, callers=(str(tmp_path / "*.parquet"),)))
