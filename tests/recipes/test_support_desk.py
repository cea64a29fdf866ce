"""What the support desk's prepare.py says and how loud, without any synthesiser."""

import argparse
import importlib.util
import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2s.data.desk import load_desk, speak_digits, split_of
from s2s.data.schema import Dialogue, Word
from s2s.data.wordings import load_wordings
from s2s.phrases import DIGIT_WORDS
from tests.data.desk_clips import caller, write_tables

FOLDER = Path(__file__).parents[2] / "recipes" / "support_desk"
PHRASES = json.loads((FOLDER / "callers_train.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("support_desk_prepare", FOLDER / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(FOLDER))  # as Python does for a script
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def callers(prepare: ModuleType) -> ModuleType:
    return sys.modules["callers"]


def digits_in(text: str) -> str:
    """The digits that a dictated number means."""
    words = re.sub(r"double (\w+)", r"\1 \1", text.replace(",", "")).replace("oh", "zero").split()
    return "".join(str(DIGIT_WORDS.index(word)) for word in words)


def test_dictated_digits_mean_the_digits(callers: ModuleType) -> None:
    rng = random.Random(0)
    said = set()
    for digits in ("4271", "0044", "77700", "00000", "1234", "5566"):
        for _ in range(60):
            text = callers.dictate(rng, digits)
            assert digits_in(text) == digits
            said.add(text)
    assert any("double" in text for text in said)
    assert any("," in text for text in said)
    assert any("oh" in text for text in said)


def test_words_of_the_voice_begin_where_the_last_one_ends(prepare: ModuleType) -> None:
    ends = np.array([8, 10, 11, 13, 14, 18, 20, 30])  # a pad, "ab", a space, "c", a space, "d", a pad
    found = np.array(sys.modules["voice"].word_times(list("ab c d"), ends))
    np.testing.assert_allclose(found, [(0.2, 0.275), (0.275, 0.35), (0.35, 0.5)])


def test_written_calls_say_what_was_given_and_what_was_drawn(prepare: ModuleType, tmp_path: Path) -> None:
    config = replace(write_tables(tmp_path), num_dialogues=40, seed=3)
    calls = prepare.written_calls(config, 3)
    turns = [turn for index in range(len(calls)) for turn in calls[index].meta["turns"]]
    given = {text for items in PHRASES.values() for text in items if isinstance(text, str)}
    assert {turn["text"] in given for turn in turns if not turn["digits"]} == {True, False}
    assert len({turn["digits"] for turn in turns}) > 10 and len({turn["intent"] for turn in turns}) > 20
    assert prepare.written_calls(replace(config, seed=4), 3)[0].meta["turns"] != calls[0].meta["turns"]


def test_a_single_sentence_is_answered_in_far_fewer_steps_than_a_call_has(prepare: ModuleType, tmp_path: Path) -> None:
    config = replace(write_tables(tmp_path), num_dialogues=200, seed=3)
    calls, sentences = (
        prepare.find_source(config, argparse.Namespace(stage=stage, drawn=3, spoken=False))
        for stage in ("written", "sentences")
    )
    turns = [sentence.meta["turns"] for sentence in (sentences[index] for index in range(200))]
    assert {len(each) for each in turns} == {1}
    said = [each[0]["intent"] for each in turns]
    assert len(set(said)) > 20
    assert 8 < said.count("out_of_scope") < 50  # four times as often as the others
    assert not any(each[0]["barge_in"] for each in turns)
    lengths = [np.mean([source[index].num_samples for index in range(40)]) for source in (sentences, calls)]
    assert lengths[0] < lengths[1] / 2
    assert {sentences[index].written for index in range(40)} == {("user", "agent")}
    assert sentences.name.startswith(calls.name)  # how a training knows that nothing is heard in its shards


def test_a_pass_says_every_phrase_and_fills_every_slot(callers: ModuleType) -> None:
    lines = callers.caller_lines(PHRASES, random.Random(1))
    said = {text for line in lines for text in line["texts"]}
    assert not any("{" in text for text in said)
    assert all(line in said for name, items in PHRASES.items() if not name.startswith("_") for line in items)
    numbers = [line for line in lines if line["intent"] == "give_number"]
    assert len(numbers) == 4 * len(PHRASES["_number_carriers"])
    assert all(len(line["digits"]) == 4 for line in numbers)
    assert {len(line["texts"]) for line in lines} == {1, 2}


def test_agent_says_all_replies_twice_and_reads_back_what_callers_say(prepare: ModuleType) -> None:
    desk = load_desk(FOLDER / "desk.yaml")
    lines = list(prepare.agent_lines(desk, {"4271", "90210"}, numbers=5, zips=3))
    assert len(lines) == 2 * len(desk.fixed_replies()) + 5 + 3
    texts = {digits: text for _, _, digits, text, _ in lines if digits}
    assert speak_digits("4271") in texts["4271"]
    assert speak_digits("90210") in texts["90210"]
    assert lines == list(prepare.agent_lines(desk, {"90210", "4271"}, numbers=5, zips=3))


def test_speech_is_levelled_whatever_its_silences(prepare: ModuleType) -> None:
    speech = np.random.default_rng(0).normal(0, 0.02, 24000).astype(np.float32)
    for wav in (speech, np.concatenate([np.zeros(24000, np.float32), speech, np.zeros(48000, np.float32)])):
        out = prepare.level(wav)
        loud = out[out != 0]
        assert 20 * np.log10(np.sqrt(np.mean(loud**2))) == pytest.approx(-23.0, abs=0.1)


def test_drawn_lines_are_of_every_intent_and_hold_their_digits(callers: ModuleType) -> None:
    wordings = load_wordings(FOLDER / "wordings.yaml")
    lines = callers.drawn_lines(wordings, 5, random.Random(1))
    assert {line["intent"] for line in lines} == set(wordings.intents)
    assert not any("{" in line["texts"][0] for line in lines)
    for line in lines:
        assert len(line["digits"]) == {"give_number": 4, "track_with_number": 4, "give_zip": 5}.get(line["intent"], 0)


def test_the_tokenizer_holds_the_desks_actions(prepare: ModuleType) -> None:
    tokenizer = prepare.make_tokenizer(load_desk(FOLDER / "desk.yaml"), PHRASES, 600)
    assert set(tokenizer.actions) == {"handoff", "hangup"}
    assert tokenizer.vocab_size == 600


def test_statistics_of_a_composed_call_follow_its_words(prepare: ModuleType) -> None:
    silence = np.zeros(10 * 24000, np.float32)
    caller = [Word("where", 1.0, 2.0), Word("is", 2.1, 3.0), Word("it", 7.5, 8.5)]
    agent = [Word("sure", 3.2, 5.2), Word("right", 8.0, 9.0)]
    found = prepare.statistics_of(Dialogue("a", silence, silence, 24000, caller, agent, {}))
    assert found.duration_s == pytest.approx(8.0)
    assert found.gaps == pytest.approx(0.2 + 2.3) and found.overlap == pytest.approx(0.5)
    assert found.inter_pausal_units == pytest.approx(2.0 + 1.0 + 2.0 + 1.0) and found.pauses == 0.0


@pytest.fixture
def voices(callers: ModuleType) -> Any:
    """Kokoro's voices around a network that gives back the style; each style is its voice's number, then that + 0.5."""
    kokoro = object.__new__(callers.Kokoro)
    kokoro.names = ["af_one", "am_two", "bf_three", "bm_four", "jf_five", "zm_six"]
    kokoro.ids = {"a": 1, "b": 2}
    kokoro.phonemes = dict.fromkeys((False, True), lambda text: text)
    halves = [np.repeat([number, number + 0.5], callers.TIMBRE) for number in range(6)]
    kokoro.styles = {n: np.tile(half, (9, 1)).astype(np.float32) for n, half in zip(kokoro.names, halves, strict=True)}
    kokoro.network = SimpleNamespace(run=lambda _, inputs: [inputs["style"]])
    return kokoro


def test_a_voice_may_have_the_manner_of_another(voices: Any, callers: ModuleType) -> None:
    def halves(voice: str) -> list[float]:
        style = voices("abba", voice, 1.0)
        assert style.shape == (2 * callers.TIMBRE,)
        return [float(style[0]), float(style[-1])]

    assert halves("am_two") == [1.0, 1.5]
    assert halves("am_two/zm_six") == [1.0, 5.5]
    assert halves("af_one:0.25+jf_five:0.75/bf_three:0.50+af_one:0.50") == [3.0, 1.5]
    assert halves("am_two") == [1.0, 1.5]  # what was mixed before has changed no voice


def test_drawn_voices_are_mixtures_of_one_sex(voices: Any) -> None:
    rng = random.Random(0)
    drawn = [voices.draw(rng) for _ in range(400)]
    mixtures = [mixture for voice in drawn for mixture in voice.split("/")]
    for mixture in mixtures:
        parts = [part.partition(":") for part in mixture.split("+")]
        assert len({name for name, _, _ in parts}) == len(parts)
        assert len({name[1] for name, _, _ in parts}) == 1
        assert sum(float(share or 1) for _, _, share in parts) == pytest.approx(1.0)
    assert {mixture.count("+") for mixture in mixtures} == {0, 1, 2}
    assert 0.3 < sum("/" in voice for voice in drawn) / len(drawn) < 0.5
    assert {mixture[0] for mixture in mixtures} == set("abjz")


def test_held_out_callers_are_never_listened_to(prepare: ModuleType, tmp_path: Path) -> None:
    config = write_tables(tmp_path)
    (tmp_path / "drills").mkdir()
    said = {split: f"please tell it {next(n for n in range(999) if split_of(f'please tell it {n}') == split)}"
            for split in ("train", "validation", "test")}  # fmt: skip
    callers = [caller(text, "price", 1) for text in said.values()]
    pq.write_table(pa.Table.from_pylist(callers), tmp_path / "said.parquet")
    drill = f"{said['test']} again"
    pq.write_table(pa.Table.from_pylist([caller(drill, "", 2)]), tmp_path / "drills" / "drill.parquet")
    args = argparse.Namespace(stage="listen", out=tmp_path, speech=[], clips=[str(tmp_path / "said.parquet")])
    source = prepare.find_source(config, args)
    heard = {" ".join(word.text for word in source[index].user_words) for index in range(len(source))}
    assert heard == {said["train"], drill}


def test_words_that_were_seldom_heard_are_drilled(prepare: ModuleType, tmp_path: Path) -> None:
    drills = sys.modules["drills"]
    (tmp_path / "words.txt").write_text("parcel Oslo\nvase oslo crate oslo", "utf-8")
    often = [f"My Parcel, number {number}, vase" for number in range(drills.OFTEN)]
    words = drills.seldom_words(tmp_path / "words.txt", [*often[1:], "Parcel"])
    assert words == ["oslo", "vase", "crate"], "vase lacks one"
    lines = prepare.seldom_lines(words, PHRASES, random.Random(1), 300)
    said = [re.findall("[a-z']+", line["texts"][0].lower()) for line in lines]
    counts = [sum(words.count(word) for words in said) for word in ("vase", "oslo", "crate")]
    assert min(counts) > 300
    assert max(counts) - min(counts) < 30
    alone = sum(set(words) <= {"vase", "oslo", "crate"} for words in said)
    assert 150 < alone < 230
    heldout = {
        text for items in PHRASES.values() for text in items if isinstance(text, str) and split_of(text) != "train"
    }
    assert not heldout & {line["texts"][0] for line in lines}
    assert prepare.seldom_lines([], PHRASES, random.Random(1), 1) == []


def test_flags_go_with_their_stages(prepare: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    for flag in ("--lively", "--hesitant", "--spoken"):
        monkeypatch.setattr(sys, "argv", ["prepare.py", "--stage", "listen", "--out", str(tmp_path), flag])
        with pytest.raises(SystemExit):
            prepare.main()
        assert f"{flag} goes with --stage" in capsys.readouterr().err
