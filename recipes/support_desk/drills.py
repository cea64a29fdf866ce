"""Sentences in which what a word is has to be heard, as nothing else tells. A part of prepare.py."""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from s2s.data.desk import split_of
from s2s.phrases import DIGIT_WORDS

# How many of the commonest English words the drill is made of, beside those of callers.
COMMON_WORDS = 6000
# Words heard 20 to 79 times are misheard three times as often as others, those heard less often ten times as often.
OFTEN = 60
_WORD = re.compile("[A-Za-z']+")
# Words that hold a sentence together; they are heard often enough.
SMALL_WORDS = re.compile(
    "a|an|and|are|at|be|but|can|do|for|how|i|if|in|is|it|me|my|not|of|on|so|that|the|this|to|was|what|you|your",
    re.IGNORECASE,
)


def drill_lines(phrases: dict[str, list[Any]], rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Half are words in no order, callers' own, digits and the commonest others; half are callers' sentences of the
    train split in which two words of five are others, so that a sentence's rhythm is there and what it means is not.
    """
    from wordfreq import top_n_list

    texts = list(_texts(phrases))
    words = sorted({word.strip(".,?!").lower() for text in texts for word in text.split()} - {""})
    others = [word for word in top_n_list("en", COMMON_WORDS) if re.fullmatch("[a-z]{2,}", word)]
    sentences = _sentences(texts)

    def word() -> str:
        return rng.choice(rng.choices((words, others, DIGIT_WORDS), (0.35, 0.50, 0.15))[0])

    lines = []
    for number in range(count):
        if number % 2:
            said = [word() for _ in range(rng.randint(4, 9))]
        else:
            said = [_WORD.sub(word(), old) if rng.random() < 0.4 else old for old in rng.choice(sentences)]
        lines.append(_line(said))
    return lines


def seldom_words(path: Path, texts: Iterable[str]) -> list[str]:
    """The words of the list at `path` that are heard less than `OFTEN` times in these texts."""
    heard = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    return [word for word in dict.fromkeys(path.read_text("utf-8").lower().split()) if heard[word] < OFTEN]


def seldom_lines(
    words: Collection[str], phrases: dict[str, list[Any]], rng: random.Random, count: int
) -> list[dict[str, Any]]:
    """`words`, each about as often as another: most by themselves, in no order, the others in callers' sentences of the
    train split in place of all but the small words. Where there are none there are no lines.
    """
    if not words:
        return []
    sentences, cards = _sentences(_texts(phrases)), _dealt(words, rng)
    lines = []
    for _ in range(count):
        if rng.random() < 0.6:
            said = [next(cards) for _ in range(rng.randint(5, 9))]
        else:
            said = [
                old if SMALL_WORDS.fullmatch(old.strip(",")) or rng.random() < 0.15 else _WORD.sub(next(cards), old)
                for old in rng.choice(sentences)[:11]
            ]
        lines.append(_line(said))
    return lines


def _dealt(words: Collection[str], rng: random.Random) -> Iterator[str]:
    """All words in some order, and again in another one."""
    while True:
        yield from rng.sample(sorted(words), len(words))


def _texts(phrases: dict[str, list[Any]]) -> Iterator[str]:
    for items in phrases.values():
        for item in items:
            for text in item["parts"] if isinstance(item, dict) else [item]:
                if "{" not in text:
                    yield text


def _sentences(texts: Iterable[str]) -> list[list[str]]:
    """The words of those of the train split that are long enough."""
    return [text.rstrip(".?!").split() for text in texts if len(text.split()) >= 4 and split_of(text) == "train"]


def _line(words: list[str]) -> dict[str, Any]:
    text = " ".join(words)
    return {"intent": "", "texts": [f"{text[0].upper()}{text[1:]}."], "digits": ""}
