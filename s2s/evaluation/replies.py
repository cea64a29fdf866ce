"""Replies: whether the agent said, in the right turn and audibly, what it should have said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from s2s.evaluation.audibility import Span, audible_spans
from s2s.evaluation.conversation import voice_to_voice
from s2s.evaluation.recognise import Transcript
from s2s.evaluation.statistics import proportion, summarise
from s2s.evaluation.word_errors import WordErrors, count_errors, normalise, word_error_rate

MAX_WORD_ERRORS = 0.2
_CONTEXT_MS = 150  # kept on both sides of what is audible, so that soft first and last sounds reach the recogniser


class Conversation(Protocol):
    """Two tracks [N] on one clock, as a `Dialogue` has them."""

    user: np.ndarray
    agent: np.ndarray
    sample_rate: int


class Hears(Protocol):
    """A recogniser."""

    def transcribe(self, wav: np.ndarray, sample_rate: int, word_times: bool = True) -> Transcript: ...


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
    """Compare a heard text with the expected reply; each slot must occur as whole words, and apart from the others."""
    rest = f" {normalise(heard)} "
    exact = True
    for slot in expected.slots:
        wanted = f" {normalise(slot)} "
        if wanted.strip() == "" or wanted not in rest:
            exact = False
            break
        rest = rest.replace(wanted, " | ", 1)
    return ReplyScore(expected, heard, count_errors(expected.text, heard), exact, gap_ms)


def score_replies(
    conversation: Conversation, expected: Sequence[ExpectedReply], recogniser: Hears
) -> list[ReplyScore]:
    """Hear the agent's answer to each of the caller's turns, and compare it with what it should be.

    The right turn: an answer begins after its turn began and before the next one ends up answered, that is before the
    next expected turn starts; what the agent says in another turn counts there.
    """
    if any(later.turn.start < earlier.turn.end for earlier, later in zip(expected, expected[1:], strict=False)):
        raise ValueError("expected replies must be in the order of the caller's turns, which must not overlap")
    rate = conversation.sample_rate
    spans = audible_spans(conversation.agent, rate)
    limits = [reply.turn.start for reply in expected[1:]] + [None]
    scores = []
    for reply, until in zip(expected, limits, strict=True):
        gap = voice_to_voice(reply.turn, spans, until)
        heard = ""
        if gap is not None:
            heard = _hear(conversation.agent, rate, _answer(spans, reply.turn.end + gap, until), recogniser)
        scores.append(score_text(reply, heard, None if gap is None else gap * 1000 / rate))
    return scores


def _answer(spans: Sequence[Span], start: int, until: int | None) -> Span:
    """Return the stretch from `start` to the end of the last span that begins before `until`."""
    ends = [span.end for span in spans if span.start >= start and (until is None or span.start < until)]
    return Span(start, ends[-1])


def _hear(track: np.ndarray, rate: int, answer: Span, recogniser: Hears) -> str:
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
