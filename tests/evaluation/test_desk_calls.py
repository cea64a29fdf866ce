"""Whole calls through the step: an agent that does as it should scores 1, others score 0 in what they do wrong."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from s2s.data.schema import Action, Word
from s2s.evaluation.caller_script import PLANS, ScriptWriter, reply_seconds
from s2s.evaluation.desk_conditions import all_conditions
from s2s.evaluation.desk_evaluation import DeskEvaluation, play_scripts
from s2s.evaluation.desk_measures import measure, ratios
from s2s.evaluation.judged_call import JudgedReply, Words, digits_right, judge, loops
from s2s.evaluation.line import Line, LineConfig
from s2s.models.scripted import Script, ScriptedStep
from tests.evaluation.desk import DESK, RATE, Hears, agent, material, played, right_texts, script, tone


@pytest.fixture(scope="module")
def writer() -> ScriptWriter:
    return ScriptWriter(material())


# The caller.


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan not in ("digits", "accent")])
def test_a_script_is_a_function_of_its_seed(writer, plan):
    first, again, other = (writer.write(plan, 1, seed) for seed in (3, 3, 4))
    assert [(a.text, a.move.delay_s) for a in first.acts] == [(a.text, a.move.delay_s) for a in again.acts]
    assert first.seed == again.seed != other.seed


def test_every_intent_is_the_target_of_a_single_turn(writer):
    scripts = [writer.write("single", index, 0) for index in range(len(writer.intents))]
    assert [[a.intent for a in s.acts if a.target] for s in scripts] == [[name] for name in writer.intents]
    assert {"give_zip", "confirm_no", "filler_unclear", "track_with_number"} <= set(writer.intents)


def test_an_interruption_leaves_two_seconds_of_the_reply(writer):
    for index in range(6):
        acts = writer.write("barge_in", index, 0).acts
        for before, act in pairwise(acts):
            if act.move.when == "over":
                assert not before.judged and reply_seconds(before.reply.text) - act.move.delay_s > 2.0
                assert len(act.move.wav) >= 1.2 * RATE


def test_the_next_turn_begins_when_the_agent_has_finished(writer):
    written = writer.write("talk", 0, 0)
    ((_, call),) = play_scripts(agent(2.0, delay_s=0.2), [written], LineConfig())
    done = call.caller.done
    assert [d.index for d in done] == list(range(len(written.acts)))
    for before, later in pairwise(done):
        gap_s = (later.start - before.end) / RATE - 2.2  # the agent answers after 0.2 s, for 2 s
        assert gap_s == pytest.approx(written.acts[later.index].move.delay_s, abs=0.03)


def test_an_agent_that_never_answers_is_given_up(writer):
    written = writer.write("talk", 0, 0)
    ((_, call),) = play_scripts(agent(level=0.0), [written], LineConfig())
    assert len(call.caller.done) == len(written.acts)
    assert len(call.agent) / RATE < 8 * len(written.acts)


def test_rows_are_alone(writer):
    scripts = [writer.write(plan, 0, 0) for plan in ("talk", "barge_in", "silence")]
    together = {s.name: call for s, call in play_scripts(agent(), scripts, LineConfig(), rows=2)}
    for written in scripts:
        ((_, alone),) = play_scripts(agent(), [written], LineConfig())
        assert np.array_equal(alone.heard, together[written.name].heard)
        assert np.array_equal(alone.agent, together[written.name].agent)


class Asks(ScriptedStep):
    """Says its answer again whenever it has been silent for six seconds; for one row."""

    def __init__(self, seconds: float):
        super().__init__(Script(torch.from_numpy(tone(seconds, 200.0)), 0.2), 960, RATE)
        self.end = 0

    def __call__(self, wav, state, controls):
        out = super().__call__(wav, state, controls)
        heard = int(state.heard)
        if bool(out.wav.abs().max() > 0):
            self.end = heard
        elif heard - self.end >= 6 * RATE and self.end:
            state.due.fill_(heard)
        return out


# What is judged.


def test_an_agent_that_says_what_is_due_is_right(writer):
    written = writer.write("talk", 0, 0)
    judged = played(written, agent(2.5), Hears(*right_texts(written)))
    result = measure([judged])
    assert result["success"]["whole_calls"]["rate"] == result["success"]["all_turns"]["rate"] == 1.0
    assert result["success"]["all_turns"]["n"] == len(written.acts) >= 3
    assert result["latency_ms"]["p50"] == pytest.approx(200, abs=25)
    assert result["latency_ms"]["failures"] == 0


@pytest.mark.parametrize(("step", "hears"), [(agent(level=0.0), ""), (agent(2.5), "Our shop is closed forever.")])
def test_an_agent_that_is_silent_or_wrong_is_not(writer, step, hears):
    written = writer.write("talk", 0, 0)
    result = measure([played(written, step, Hears(hears))])
    assert result["success"]["whole_calls"]["rate"] == result["success"]["all_turns"]["rate"] == 0.0
    assert result["latency_ms"]["failures"] == (0 if hears else len(written.acts))


@pytest.mark.parametrize(("yield_after_s", "rate"), [(0.1, 1.0), (None, 0.0)])
def test_an_interruption_must_stop_the_agent(writer, yield_after_s, rate):
    calls = []
    for index in range(2):
        written = writer.write("barge_in", index, 0)
        calls.append(played(written, agent(6.0, yield_after_s=yield_after_s), Hears(*right_texts(written))))
    result = measure(calls)["interruption"]
    assert result["success"]["n"] == 4
    assert result["success"]["rate"] == result["yield"]["rate"] == rate
    if rate:
        assert 100 <= result["stop_ms"]["p50"] <= 240


@pytest.mark.parametrize("kind", ["backchannel", "noise", "side_speech"])
@pytest.mark.parametrize(("yield_after_s", "rate"), [(0.1, 0.0), (None, 1.0)])
def test_other_sounds_must_not(writer, kind, yield_after_s, rate):
    # An agent that is back at once has only ducked, so this one is in no hurry.
    step = agent(4.0, delay_s=1.0, yield_after_s=yield_after_s)
    held = measure([played(writer.write(kind, 0, 0), step, Hears("x"))])["selectivity"][kind]
    assert (held["n"], held["rate"]) == (3, rate)


@pytest.mark.parametrize(
    ("said", "gave_way"),
    [
        ("You can pay by card, or in cash at our shop.", False),
        ("Please have your claim form.", False),  # in other words, and yet an end
        ("You can collect it at our shop.", True),
        ("Our shop", True),
    ],
)
def test_an_agent_that_came_to_its_end_has_not_given_way(writer, said, gave_way):
    written = writer.write("backchannel", 0, 0)
    ((_, call),) = play_scripts(agent(2.0), [written], LineConfig())
    texts = [DESK.intents[name].reply for name in ("damaged", "payment", "pickup_point", "location")]
    over = [done.start / call.sample_rate for done in call.caller.done if written.acts[done.index].move.when == "over"]
    words = Words([], [Word(word, at - 0.1, at) for at in over for word in said.split()], [])
    assert [o.yielded for o in judge(written, call, Words([], [], []), Hears("x")).overlaps] == [True] * 3
    assert [o.yielded for o in judge(written, call, words, Hears("x"), texts=texts).overlaps] == [gave_way] * 3


@pytest.mark.parametrize(("delay_s", "taken"), [(0.2, 1), (1.5, 0)])
def test_a_pause_is_no_end(writer, delay_s, taken):
    written = writer.write("pause", 0, 0)
    pauses = [end - start for act in written.acts for start, end in act.pauses_s]
    assert len(pauses) == 3 and all(0.4 <= pause <= 1.2 for pause in pauses)
    judged = played(written, agent(2.5, delay_s=delay_s), Hears("x"))
    assert judged.takeovers == [int(taken and pause > delay_s) for pause in pauses]


def test_silence_is_answered_after_six_seconds(writer):
    written = writer.write("silence", 2, 0)  # a turn, and then nothing at all
    assert [a.reply.key for a in written.acts][1:] == ["still_there", "give_up"]
    silent = measure([played(written, agent(2.0), Hears(*right_texts(written)))])  # it never asks
    assert silent["rules"]["silence"]["rate"] == silent["rules"]["silence_again"]["rate"] == 0.0

    asked = measure([played(written, Asks(2.0), Hears(*right_texts(written)))])
    assert asked["rules"]["silence"]["rate"] == asked["rules"]["silence_again"]["rate"] == 1.0


def test_actions_count_in_their_turn(writer):
    written = writer.write("ladder", 0, 0)
    assert [a.reply.action for a in written.acts] == ["", "handoff"]
    ((_, call),) = play_scripts(agent(2.0), [written], LineConfig())
    second_s = call.caller.done[1].start / RATE

    def done(*actions: Action) -> dict:
        judged = played(written, agent(2.0), Hears(*right_texts(written)), Words([], [], list(actions)))
        return measure([judged])

    right = done(Action("handoff", second_s + 2))
    assert right["actions"]["handoff"]["recall"]["rate"] == right["actions"]["handoff"]["precision"]["rate"] == 1.0
    assert right["rules"]["ladder_with_handoff"]["rate"] == 1.0
    early = done(Action("handoff", second_s - 1))
    assert early["actions"]["handoff"]["recall"]["rate"] == early["actions"]["handoff"]["precision"]["rate"] == 0.0
    assert early["rules"]["ladder_with_handoff"]["rate"] == 0.0
    other = done(Action("handoff", second_s + 2), Action("hangup", second_s + 3))
    assert other["actions"]["hangup"]["precision"]["rate"] == 0.0


def test_digits_said_by_people_are_read_back(writer):
    prompts = {str(digit): tone(0.3, 200 + 40 * digit) for digit in range(10)}
    written = script("digits", 0, digits=prompts)
    assert written.acts[-1].target and len(written.acts[-1].digits) == 4
    result = measure([played(written, agent(2.5), Hears(*right_texts(written)))])
    assert result["slots"]["numbers"]["digits"]["rate"] == result["slots"]["numbers"]["whole"]["rate"] == 1.0
    assert result["success"]["single_turn"]["rate"] == 1.0


@pytest.mark.parametrize(
    ("heard", "right"),
    [
        ("I have parcel 4271.", 4),
        ("I have parcel four two seven seven.", 3),
        ("parcel 42 71 1", 3),
        ("parcel 271", 3),
        ("nothing at all", 0),
    ],
)
def test_digits_are_aligned(heard, right):
    assert digits_right(heard, "4271") == right


def test_a_prompt_that_comes_three_times_is_a_loop():
    reply = JudgedReply("track", "track", "Hello.", "Say it again.", "", False, 200.0)
    other, asked = dataclasses.replace(reply, heard="Done."), dataclasses.replace(reply, intent="repeat")
    assert loops([reply] * 2) == loops([reply, other, reply, reply]) == loops([reply, reply, asked]) == 0
    assert loops([reply] * 3) == loops([reply] * 5) == 1


# Lines and conditions.


def test_the_line_takes_what_it_says():
    wav, rng = tone(2.0, 1000.0), np.random.default_rng
    level = float(np.sqrt(np.mean(wav**2)))
    noisy = Line(LineConfig(noise_snr_db=10.0), RATE, level, rng(0)).carry(0, np.zeros(10 * RATE, np.float32))
    assert 20 * np.log10(level / np.sqrt(np.mean(noisy**2))) == pytest.approx(10.0, abs=0.3)
    lossy = Line(LineConfig(loss_rate=0.1), RATE, level, rng(0))
    lost = np.concatenate([lossy.carry(960 * n, np.ones(960, np.float32)) for n in range(5000)]) == 0
    assert lost.mean() == pytest.approx(0.1, abs=0.02)
    bursts = lost[: len(lost) // 2400 * 2400].reshape(-1, 2400)
    assert (bursts.all(axis=1) | ~bursts.any(axis=1)).all()
    narrow = Line(LineConfig(telephone=True), RATE, level, rng(0)).voice(tone(1.0, 6000.0))
    assert np.abs(narrow[RATE // 10 : -RATE // 10]).max() < 0.005


def test_conditions_lose_what_their_data_lack():
    assert len(all_conditions()) == 15
    bare = DeskEvaluation("desk.yaml", ("clips/*.parquet",))
    names, left_out = bare.chosen()
    assert {c.name for c in names} == set(all_conditions()) - set(left_out) - {"validation"}
    assert set(left_out) == {"voices", "unheard", "human_digits", "human_accents"}
    with pytest.raises(ValueError, match="conditions has 'clear', allowed are clean"):
        DeskEvaluation("desk.yaml", ("clips/*.parquet",), conditions=("clear",))


def test_what_a_model_is_chosen_by_is_tried_only_when_asked_for():
    settings = {"desk": "desk.yaml", "callers": ("clips/*.parquet",), "heldout": ("kept/*.parquet",)}
    names, _ = DeskEvaluation(**settings, digits="digits.parquet", accents="accents.parquet").chosen()
    assert len(names) == 14 and all(c.split != "validation" for c in names)
    (asked,), left_out = DeskEvaluation(**settings, conditions=("validation",)).chosen()
    assert (asked.name, asked.split, asked.voices, left_out) == ("validation", "validation", "heldout", {})


def test_a_condition_is_a_ratio_of_the_clean_one(writer):
    written = writer.write("talk", 0, 0)
    clean = measure([played(written, agent(2.5), Hears(*right_texts(written)))])
    silent = measure([played(written, agent(level=0.0), Hears(""))])
    assert ratios(clean, clean)["all_turns"]["ratio"] == 1.0
    assert ratios(silent, clean)["all_turns"]["ratio"] == 0.0
    assert ratios(clean, silent)["all_turns"]["ratio"] is None
