"""Word errors: normalised text, counted word errors, and the rate over many recordings with its interval."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from s2s.evaluation.extras import require
from s2s.evaluation.statistics import bootstrap_ratio_interval

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# "8-12" is read "eight to twelve"; a longer chain (4-2-7-1) or a longer number (555-1234) is read digit by digit.
_RANGE = re.compile(r"(?<![\d-])(\d{1,2})\s?[-\u2013]\s?(\d{1,2})(?![\d-])")
# The normaliser reads a number's value and would lose these zeros, which a zip code needs.
_LEADING_ZERO = re.compile(r"(?<![\d.,])0\d+")
_MONEY = re.compile(r"[$\u00a3\u20ac]([\d.,]*\d)")
_GOODBYE = re.compile(r"\bgood[ -]bye\b", re.IGNORECASE)


@cache
def _english_normaliser() -> Any:
    return require("whisper_normalizer.english").EnglishTextNormalizer()


@cache
def normalise(text: str) -> str:
    """Return English text as lower-case words without punctuation, every number digit by digit in words.

    "Parcel 4271.", "parcel four two seven one" and "parcel forty-two seventy-one" all become the same five words: a
    recogniser is free in how it writes a number, and splitting it makes one wrong digit one wrong word. So it is with
    "good bye".
    """
    split = _LEADING_ZERO.sub(lambda number: " ".join(number[0]), _RANGE.sub(r"\1 to \2", text))
    split = _GOODBYE.sub("goodbye", split)
    plain = _english_normaliser()(split)
    plain = _MONEY.sub(r"\1 dollars", plain)
    spelled = re.sub(r"\d", lambda digit: f" {DIGIT_WORDS[int(digit[0])]} ", plain)
    return " ".join(re.sub(r"[^\w\s']", " ", spelled).split())


@dataclass(frozen=True)
class WordErrors:
    """Errors of one or more texts against their references; `words` counts the reference's words."""

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Errors per reference word; of an empty reference 0 when nothing was heard and infinite otherwise."""
        if self.words:
            return self.errors / self.words
        return float("inf") if self.errors else 0.0

    def __add__(self, other: "WordErrors") -> "WordErrors":
        return WordErrors(self.errors + other.errors, self.words + other.words)


def count_errors(reference: str, heard: str) -> WordErrors:
    """Return the least substitutions, deletions and insertions from `reference` to `heard`, both normalised first."""
    reference, heard = normalise(reference), normalise(heard)
    if not reference or not heard:  # every word of the other one is an error
        return WordErrors(len(reference.split()) + len(heard.split()), len(reference.split()))
    alignment = require("jiwer").process_words(reference, heard)
    errors = alignment.substitutions + alignment.deletions + alignment.insertions
    return WordErrors(errors, len(reference.split()))


def word_error_rate(references: Sequence[str], heard: Sequence[str]) -> dict[str, Any]:
    """Return wer, its 95 % bootstrap bounds over recordings, errors, words and n; wer is None without any word.

    Raises ValueError when the two sequences differ in length.
    """
    if len(references) != len(heard):
        raise ValueError(f"{len(references)} references for {len(heard)} heard texts")
    counts = [count_errors(*pair) for pair in zip(references, heard, strict=True)]
    total = sum(counts, WordErrors(0, 0))
    if total.words == 0:
        return {"wer": None, "low": None, "high": None, "errors": total.errors, "words": 0, "n": len(counts)}
    low, high = bootstrap_ratio_interval([c.errors for c in counts], [c.words for c in counts])
    return {"wer": total.rate, "low": low, "high": high, "errors": total.errors, "words": total.words, "n": len(counts)}
