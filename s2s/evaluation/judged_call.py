"""Judged call: everything that is measured of one live call, as plain values, so that reports need no audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from s2s.checkpoint import Bundle
from s2s.data.align import steps_to_actions, steps_to_words
from s2s.data.desk import speak_digits
from s2s.data.schema import Action, Word
from s2s.evaluation.audibility import Span, audible_spans
from s2s.evaluation.barge_in import Outcome, Overlap, outcomes
from s2s.evaluation.caller_script import Act, Script
from s2s.evaluation.conversation import takeover
from s2s.evaluation.dialogue_statistics import DialogueStatistics, dialogue_statistics
from s2s.evaluation.live_calls import LiveCall
from s2s.evaluation.naturalness import Naturalness
from s2s.evaluation.reactive_caller import Done, ReactiveCaller
from s2s.evaluation.recognise import Hears
from s2s.evaluation.replies import ExpectedReply, answer_spans, gap_ms, hear_answer, score_text
from s2s.evaluation.word_errors import normalise
from s2s.phrases import DIGIT_WORDS

OPENING, SILENCE = "opening", "silence"
_LEAST_MOS_S = 1.0
_LOOP = 3  # the same prompt so many times in a row
_EDGE_S = 0.3  # how far a word of the text stream may stand outside of what is audible


@dataclass(frozen=True)
class JudgedReply:
    """A reply that was due. intent: of the caller's turn ("opening", "silence": there was none); key: of the reply.

    own: what the model's own text says there; gap_ms: from the caller's last audible sample; right: digits of `digits`
    that were read back in their place; over: the turn interrupted the agent; mos: naturalness.
    """

    intent: str
    key: str
    expected: str
    heard: str
    own: str
    success: bool
    gap_ms: float | None
    digits: str = ""
    right: int = 0
    target: bool = False
    over: bool = False
    stopped: bool | None = None
    mos: float | None = None


@dataclass(frozen=True)
class JudgedCall:
    """One call.

    takeovers: 0 or 1 of every thinking pause; actions_right: those of actions_due that were done in their turn,
    actions_wrong: all others; loops: prompts that came three times in a row.
    """

    name: str
    plan: str
    group: str
    duration_s: float
    replies: list[JudgedReply] = field(default_factory=list)
    overlaps: list[Outcome] = field(default_factory=list)
    takeovers: list[int] = field(default_factory=list)
    actions_due: list[str] = field(default_factory=list)
    actions_right: list[str] = field(default_factory=list)
    actions_wrong: list[str] = field(default_factory=list)
    loops: int = 0
    caller_text: str = ""
    caller_heard: str = ""
    statistics: DialogueStatistics = field(default_factory=DialogueStatistics)


@dataclass(frozen=True)
class Words:
    """What the text streams of a call say, on the caller's clock."""

    caller: list[Word]
    agent: list[Word]
    actions: list[Action]


def words_of(bundle: Bundle, call: LiveCall[Any]) -> Words:
    """The words and actions of both text streams; nothing where the model has no text."""
    tokenizer, lead, lag = bundle.tokenizer, bundle.defaults.agent_lead_steps, bundle.defaults.user_lag_steps
    if tokenizer is None:
        return Words([], [], [])
    step_s = 1 / bundle.codec.spec.frame_rate
    # What is said at step s is heard during frame s + 1.
    user, agent = ([-1, *call.text.get(name, [])] for name in ("user_text", "agent_text"))
    return Words(
        steps_to_words(user, tokenizer, step_s, -lag, "end"),
        steps_to_words(agent, tokenizer, step_s, lead, "start"),
        steps_to_actions(agent, tokenizer, step_s, lead),
    )


def judge(
    script: Script,
    call: LiveCall[ReactiveCaller],
    words: Words,
    recogniser: Hears,
    naturalness: Naturalness | None = None,
    texts: Sequence[str] = (),
) -> JudgedCall:
    """Hear every reply that was due and compare it; see who spoke when. `texts`: all that the agent may say."""
    rate, caller = call.sample_rate, call.caller
    clean = np.concatenate([*caller.clean, np.zeros(1, np.float32)])
    turns = _turns(script, caller.done, clean, rate)
    spans = audible_spans(call.agent, rate)
    overlaps = _overlaps(script, caller.done, call.agent, words.agent, texts, rate)
    stopped = {index: outcome for index, outcome in overlaps.items() if outcome.kind == "interruption"}
    answers = answer_spans(call.agent, rate, [turn.span for turn in turns])
    replies = [
        _reply(turn, answer, call, words, stopped.get(turn.index), recogniser, naturalness)
        for turn, answer in zip(turns, answers, strict=True)
        if turn.act.judged and turn.act.reply is not None
    ]
    due, right, wrong = _actions(turns, words.actions, rate)
    said = [script.acts[done.index] for done in caller.done]
    return JudgedCall(
        script.name, script.plan, script.group, len(call.agent) / rate, replies, list(overlaps.values()),
        _takeovers(script, caller.done, spans, words.agent, rate), due, right, wrong, loops(replies),
        " ".join(act.text for act in said if act.move.kind in ("turn", "backchannel")),
        " ".join(word.text for word in words.caller),
        dialogue_statistics(audible_spans(clean, rate), spans, rate),
    )  # fmt: skip


def loops(replies: Sequence[JudgedReply]) -> int:
    """How often a prompt came for the third time in a row although it was not asked for again."""
    found, run = 0, 1
    for before, now in pairwise(replies):
        same = bool(normalise(now.heard)) and normalise(now.heard) == normalise(before.heard)
        run = run + 1 if same and now.intent != "repeat" else 1
        found += run == _LOOP
    return found


def digits_right(heard: str, digits: str) -> int:
    """How many of the digits were read back: those of an alignment with the fewest errors, at least 0."""
    found = [DIGIT_WORDS.index(word) for word in normalise(heard).split() if word in DIGIT_WORDS]
    row = list(range(len(found) + 1))
    for number, digit in enumerate(digits, start=1):
        before, row = row, [number]
        for at, other in enumerate(found, start=1):
            row.append(min(before[at] + 1, row[-1] + 1, before[at - 1] + (other != int(digit))))
    return max(0, len(digits) - row[-1])


@dataclass(frozen=True)
class _Turn:
    """A turn as it happened; index -1: the call's beginning, which the opening answers."""

    index: int
    act: Act
    span: Span
    over: bool


def _turns(script: Script, done: Sequence[Done], clean: np.ndarray, rate: int) -> list[_Turn]:
    """What asks for a reply, in order, from its first to its last audible sample."""
    turns: list[_Turn] = []
    if script.opening is not None:
        move = Act(script.acts[0].move, OPENING, reply=script.opening, judged=script.opening_judged)
        turns.append(_Turn(-1, move, Span(0, 0), False))
    for each in done:
        act = script.acts[each.index]
        if act.move.kind == "silence":
            turns.append(_Turn(each.index, act, Span(each.start, each.end), False))
        elif act.move.kind == "turn":
            audible = audible_spans(clean[each.start : each.end], rate, min_ms=0) or [Span(0, each.end - each.start)]
            span = Span(each.start + audible[0].start, each.start + audible[-1].end)
            turns.append(_Turn(each.index, act, span, act.move.when == "over"))
    return turns


def _reply(
    turn: _Turn,
    answer: Span | None,
    call: LiveCall[Any],
    words: Words,
    stop: Outcome | None,
    recogniser: Hears,
    naturalness: Naturalness | None,
) -> JudgedReply:
    act, rate, reply = turn.act, call.sample_rate, turn.act.reply
    assert reply is not None
    heard, own, mos = "", "", None
    if answer is not None:
        heard = hear_answer(call.agent, rate, answer, recogniser)
        start, end = answer.start / rate - _EDGE_S, answer.end / rate + _EDGE_S
        own = " ".join(word.text for word in words.agent if start <= word.start_s <= end)
        if naturalness is not None and answer.end - answer.start >= _LEAST_MOS_S * rate:
            mos = naturalness.score([call.agent[answer.start : answer.end]], rate)[0]
    slots = (speak_digits(reply.digits),) if reply.digits else ()
    score = score_text(ExpectedReply(turn.span, reply.text, slots, act.intent), heard)
    right = digits_right(heard, reply.digits) if reply.digits else 0
    return JudgedReply(
        act.intent, reply.key, reply.text, heard, own, score.success, gap_ms(turn.span, answer, rate), reply.digits,
        right, act.target, turn.over, None if stop is None or stop.stop_ms is None else stop.yielded, mos,
    )  # fmt: skip


def _overlaps(
    script: Script, done: Sequence[Done], agent: np.ndarray, words: Sequence[Word], texts: Sequence[str], rate: int
) -> dict[int, Outcome]:
    """What the agent did about every sound over its speech, by the number of the move.

    An agent that has come to the end of what it was saying has not given way, however soon that was.
    """
    found: dict[int, Outcome] = {}
    asked_s = 0.0  # since when what the agent says is of this reply
    for each, later in zip(done, [*done[1:], None], strict=True):
        move = script.acts[each.index].move
        if move.when == "over" and move.kind != "silence":
            kind = "interruption" if move.kind == "turn" else move.kind
            overlap = Overlap(kind, script.acts[each.index].text, each.start, later.start if later else len(agent))
            outcome = outcomes(agent, rate, [overlap])[0]
            if outcome.yielded and outcome.stop_ms is not None:
                stop_s = each.start / rate + outcome.stop_ms / 1000
                said = " ".join(word.text for word in words if asked_s <= word.start_s < stop_s)
                outcome = replace(outcome, yielded=not _ends(said, texts))
            found[each.index] = outcome
        if move.kind in ("turn", "silence"):
            asked_s = (each.end if move.when == "over" else each.start) / rate
    return found


def _ends(said: str, texts: Sequence[str]) -> bool:
    """Whether what was said ends as one of these texts does, in their last two words.

    Unless it is how a longer one begins: "You can collect it at our shop" ends as "in cash at our shop" does, and yet
    more was to come.
    """
    so_far, whole = normalise(said).split(), [normalise(text).split() for text in texts]
    if so_far not in whole and any(text[: len(so_far)] == so_far for text in whole):
        return False
    return len(so_far) > 1 and any(text[-2:] == so_far[-2:] for text in whole)


def _takeovers(
    script: Script, done: Sequence[Done], spans: Sequence[Span], words: Sequence[Word], rate: int
) -> list[int]:
    """For every pause inside a sentence whether the agent, who began to speak in it, took the turn."""
    found = []
    for each in done:
        for start_s, _ in script.acts[each.index].pauses_s:
            start = each.start + round(start_s * rate)
            begun = [span for span in spans if start <= span.start < each.end]
            # What is audible counts as well as the model's own words, which a model of audio alone does not have.
            sounds = [Word("", span.start / rate, span.end / rate) for span in begun]
            said = [w for w in words if any(s.start <= w.start_s * rate < s.end for s in begun)]
            found.append(max(takeover(sounds), takeover(said)))
    return found


def _actions(turns: Sequence[_Turn], actions: Sequence[Action], rate: int) -> tuple[list[str], list[str], list[str]]:
    """The actions that were due, those of them that were done between their turn and the next one, and all others."""
    left = list(actions)
    due, right = [], []
    for turn, later in zip(turns, [*turns[1:], None], strict=True):
        name = turn.act.reply.action if turn.act.reply is not None else ""
        if not name:
            continue
        due.append(name)
        until_s = later.span.start / rate if later else float("inf")
        match = next((a for a in left if a.name == name and turn.span.start / rate <= a.at_s < until_s), None)
        if match is not None:
            left.remove(match)
            right.append(name)
    return due, right, [action.name for action in left]
