"""Calls: composed conversations played to a model, and how many of its spoken replies are the ones that were due."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2s.checkpoint import Bundle
from s2s.data.desk import speak_digits
from s2s.data.schema import Dialogue
from s2s.evaluation.answer import Answer, AnswerConfig, answer_all
from s2s.evaluation.audibility import Span
from s2s.evaluation.naturalness import Naturalness
from s2s.evaluation.recognise import Hears
from s2s.evaluation.replies import ExpectedReply, ReplyScore, score_replies, task_success
from s2s.evaluation.statistics import proportion, summarise
from s2s.evaluation.word_errors import word_error_rate


@dataclass(frozen=True)
class PlayedCall:
    """A call as it should be, what the model made of it, and the score of every reply."""

    dialogue: Dialogue
    answer: Answer
    heard: str
    scores: list[ReplyScore]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.dialogue.id,
            "kind": self.dialogue.meta.get("kind", ""),
            "caller_text": _text(self.dialogue.user_words),
            "caller_heard": _text(self.answer.caller_words),
            "agent_text": _text(self.answer.agent_words),
            "agent_heard": self.heard,
            "replies": [
                {"intent": s.expected.label, "expected": s.expected.text, "heard": s.heard, "success": s.success,
                 "gap_ms": s.gap_ms} for s in self.scores
            ],
        }  # fmt: skip


def play_calls(
    bundle: Bundle, dialogues: Sequence[Dialogue], recogniser: Hears, config: AnswerConfig, rows: int = 16
) -> Iterator[PlayedCall]:
    """Let the model hear the callers' tracks through the serving step, `rows` at a time, and judge what it says.

    The caller's turns stay where the dialogue has them: a caller who does not wait. Raises ValueError for a dialogue
    whose meta names no turns.
    """
    for dialogue in dialogues:
        if not dialogue.meta.get("turns"):
            raise ValueError(f"dialogue {dialogue.id} has no turns in its meta, so no reply is known to be right")
    # Calls of like length share a batch, which lasts as long as its longest one.
    ordered = sorted(dialogues, key=lambda dialogue: len(_until_last_word(dialogue)))
    for group in (ordered[at : at + rows] for at in range(0, len(ordered), rows)):
        # Who speaks first is a property of the call: the agent does, unless the caller is first.
        openings = [d.meta.get("kind") != "caller_first" for d in group]
        answers = answer_all(bundle, [_until_last_word(d) for d in group], group[0].sample_rate, config, openings)
        for dialogue, result in zip(group, answers, strict=True):
            yield _judge(dialogue, result, recogniser)


def _judge(dialogue: Dialogue, result: Answer, recogniser: Hears) -> PlayedCall:
    turns, rate = dialogue.meta["turns"], result.sample_rate
    # A turn that the next one interrupts has no reply of its own to be judged.
    due = [turn for turn, later in zip(turns, [*turns[1:], None], strict=True) if not (later and later["barge_in"])]
    expected = [_expected(turn, rate) for turn in due]
    scores = score_replies(_Tracks(result.caller, result.agent, rate), expected, recogniser)
    heard = recogniser.transcribe(result.agent, rate, word_times=False).text
    return PlayedCall(dialogue, result, heard, scores)


def report(calls: Iterable[PlayedCall], naturalness: Naturalness | None = None) -> dict[str, Any]:
    """Success per intent with intervals, word errors of both sides, turn gaps, speed; ready for JSON."""
    calls = list(calls)
    scores = [score for call in calls for score in call.scores]
    result = {
        "calls": len(calls),
        "replies": task_success(scores),
        "whole_calls": proportion(sum(all(s.success for s in call.scores) for call in calls), len(calls)),
        "agent_word_errors": word_error_rate([_text(c.answer.agent_words) for c in calls], [c.heard for c in calls]),
        "caller_word_errors": word_error_rate(
            [_text(c.dialogue.user_words) for c in calls], [_text(c.answer.caller_words) for c in calls]
        ),
        "step_ms": summarise([seconds * 1000 for call in calls for seconds in call.answer.step_s]),
    }
    if naturalness is not None:
        rate = calls[0].answer.sample_rate
        result["agent_dmos"] = summarise(naturalness.score([call.answer.agent for call in calls], rate))
    return result


def table(result: dict[str, Any]) -> str:
    """The report's successes as a Markdown table."""
    lines = ["| intent | right | of | 95 % interval |", "| --- | --- | --- | --- |"]
    rows = {**result["replies"]["by_label"], "**all replies**": result["replies"]["success"]}
    for label, share in rows.items():
        lines.append(f"| {label} | {share['successes']} | {share['n']} | {share['low']:.0%} to {share['high']:.0%} |")
    return "\n".join(lines)


@dataclass
class _Tracks:
    user: np.ndarray
    agent: np.ndarray
    sample_rate: int


def _expected(turn: dict[str, Any], rate: int) -> ExpectedReply:
    span = Span(round(turn["start_s"] * rate), round(turn["end_s"] * rate))
    digits = turn.get("digits", "")
    slots = (speak_digits(digits),) if digits and speak_digits(digits) in turn["reply_text"] else ()
    return ExpectedReply(span, turn["reply_text"], slots, turn["intent"])


def _until_last_word(dialogue: Dialogue) -> np.ndarray:
    """The caller's track up to half a second behind the last word, so that the tail is the player's to choose."""
    end = max((word.end_s for word in dialogue.user_words), default=0.0) + 0.5
    return dialogue.user[: round(end * dialogue.sample_rate)]


def _text(words: Iterable[Any]) -> str:
    return " ".join(word.text for word in words)
