"""Replies: whether the agent said, in the right turn and audibly, what it should have said."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, Protocol

import numpy as np

from s2s.evaluation.audibility import Span, audible_spans
from s2s.evaluation.conversation import voice_to_voice
from s2s.evaluation.recognise import Hears
from s2s.evaluation.statistics import proportion, summarise
from s2s.evaluation.word_errors import DIGIT_WORDS, WordErrors, count_errors, normalise, word_error_rate

MAX_WORD_ERRORS = 0.2
_ENDS_AFTER_S = 2.0  # a silence of the agent that ends an answer
_CONTEXT_MS = 150  # kept on both sides of what is audible, so that soft first and last sounds reach the recogniser


class Conversation(Protocol):
    """Two tracks [N] on one clock, as a `Dialogue` has them."""

    user: np.ndarray
    agent: np.ndarray
    sample_rate: int


@dataclass(frozen=True)
class ExpectedReply:
    """What the agent should say to the caller's `turn` (in samples); no text: it should keep silent.

    `slots` are the parts that must be exact, such as a number read back.
    """

    turn: Span
    text: str
    slots: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class ReplyScore:
    """One reply as it was heard; `gap_ms` is voice_to_voice, None without an answer."""

    expected: ExpectedReply
    heard: str
    errors: WordErrors
    slots_exact: bool
    gap_ms: float | None

    @property
    def success(self) -> bool:
        """Slots exact and at most 20 % word errors; for an expected silence, nothing heard."""
        return self.slots_exact and self.errors.rate <= MAX_WORD_ERRORS


def score_text(expected: ExpectedReply, heard: str, gap_ms: float | None = None) -> ReplyScore:
    """Compare a heard text with the expected reply; each slot must be found in a place of its own."""
    words: list[str | None] = list(normalise(heard).split())
    exact = all(_take_slot(words, normalise(slot).split()) for slot in expected.slots)
    return ReplyScore(expected, heard, count_errors(expected.text, heard), exact, gap_ms)


def _take_slot(words: list[str | None], slot: Sequence[str]) -> bool:
    """Find the slot's words in a row, put None in their place, and tell whether they were there.

    A number is found only whole: next to another digit it is a part of a longer, wrong number.
    """
    for start in range(len(words) - len(slot) + 1 if slot else 0):
        end = start + len(slot)
        before = words[start - 1] if start else None
        after = words[end] if end < len(words) else None
        longer = (slot[0] in DIGIT_WORDS and before in DIGIT_WORDS) or (
            slot[-1] in DIGIT_WORDS and after in DIGIT_WORDS
        )
        if words[start:end] == list(slot) and not longer:
            words[start:end] = [None] * len(slot)
            return True
    return False


def score_replies(conversation: Conversation, expected: Sequence[ExpectedReply], recogniser: Hears) -> list[ReplyScore]:
    """Hear the agent's answer to each of the caller's turns, and compare it with what it should be.

    The right turn: an answer begins after its own turn began and before the next expected turn does; what the agent
    says in another turn counts there. Raises ValueError when the turns overlap or are out of order.
    """
    if any(later.turn.start < earlier.turn.end for earlier, later in pairwise(expected)):
        raise ValueError("expected replies must be in the order of the caller's turns, which must not overlap")
    rate = conversation.sample_rate
    scores = []
    for reply, answer in zip(
        expected, answer_spans(conversation.agent, rate, [reply.turn for reply in expected]), strict=True
    ):
        heard = "" if answer is None else hear_answer(conversation.agent, rate, answer, recogniser)
        scores.append(score_text(reply, heard, gap_ms(reply.turn, answer, rate)))
    return scores


def answer_spans(agent: np.ndarray, rate: int, turns: Sequence[Span]) -> list[Span | None]:
    """The stretch of the agent's track [N] that answers each of the caller's turns, which are in order; None: none."""
    spans = audible_spans(agent, rate)
    found: list[Span | None] = []
    for turn, until in zip_longest(turns, [turn.start for turn in turns[1:]]):
        gap = voice_to_voice(turn, spans, until)
        found.append(None if gap is None else _answer(spans, turn.end + gap, until, rate))
    return found


def gap_ms(turn: Span, answer: Span | None, rate: int) -> float | None:
    """voice_to_voice in milliseconds; None without an answer."""
    return None if answer is None else (answer.start - turn.end) * 1000 / rate


def _answer(spans: Sequence[Span], start: int, until: int | None, rate: int) -> Span:
    """Return the stretch from `start` to where the agent is silent for `_ENDS_AFTER_S`, or the next turn begins."""
    end = start
    for span in spans:
        if span.start < start or (until is not None and span.start >= until):
            continue
        if end > start and span.start - end > _ENDS_AFTER_S * rate:
            break  # what follows is not part of the answer: a desk asks "are you still there?" by and by
        end = span.end
    return Span(start, end)


def hear_answer(track: np.ndarray, rate: int, answer: Span, recogniser: Hears) -> str:
    """What the recogniser hears of the agent's track [N] in the stretch of an answer."""
    context = rate * _CONTEXT_MS // 1000
    heard = track[max(answer.start - context, 0) : answer.end + context]
    return recogniser.transcribe(heard, rate, word_times=False).text


def task_success(scores: Sequence[ReplyScore]) -> dict[str, Any]:
    """Return success with its Wilson interval, per label too, word errors and V2V over the answers that were due.

    A missing answer is a failure of V2V as well as of success.
    """
    due = [score for score in scores if normalise(score.expected.text)]
    gaps = [score.gap_ms for score in due if score.gap_ms is not None]
    by_label: dict[str, list[ReplyScore]] = {}
    for score in scores:
        by_label.setdefault(score.expected.label, []).append(score)
    return {
        "success": proportion(sum(score.success for score in scores), len(scores)),
        "by_label": {k: proportion(sum(s.success for s in v), len(v)) for k, v in sorted(by_label.items())},
        "word_errors": word_error_rate([s.expected.text for s in scores], [s.heard for s in scores]),
        "v2v_ms": summarise(gaps, failures=len(due) - len(gaps)),
    }
