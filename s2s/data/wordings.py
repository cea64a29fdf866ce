"""Wordings: sentences with choices, from which many ways to say one thing are drawn.

    "[Can|Could] you [find|trace] <my> <parcel>[, please|]?"

[a|b|] is one of its parts, the last one here nothing; <name> stands for a list of such text by name; lists may nest.
"""

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_NAME = re.compile(r"<(\w+)>")
_LEAD = "lead"  # the list of words that may stand before a sentence
_DEEPEST = 8
# What is a greeting, an interjection or a fragment itself is not introduced by another one.
_WITHOUT_LEAD = frozenset(
    ["hello", "thanks", "goodbye", "repeat", "hold_on", "filler_unclear", "give_number", "give_zip", "confirm_no",
     "confirm_number_yes", "confirm_zip_yes", "say_morning", "say_afternoon"]
)  # fmt: skip


class Wordings:
    """Sentences of each intent, drawn at random."""

    def __init__(self, intents: Mapping[str, Sequence[str]], words: Mapping[str, str], lead_share: float = 0.25):
        """Args: words: lists by name, as text with choices; "lead" is put before a `lead_share` of sentences.

        Raises ValueError for a sentence with an unknown name or an open bracket.
        """
        self.intents, self._words, self._lead_share = intents, words, lead_share
        for intent, templates in intents.items():
            for template in templates:
                try:
                    self._fill(template, random.Random(0))
                except ValueError as error:
                    raise ValueError(f"{intent}: {error}") from None

    def draw(self, intent: str, rng: random.Random) -> str:
        """A sentence; slots such as {number} stay as they are."""
        text = self._fill(rng.choice(self.intents[intent]), rng)
        if _LEAD in self._words and intent not in _WITHOUT_LEAD and rng.random() < self._lead_share:
            first = text.split()[0]
            begins = text if first.split("'")[0] in ("I", "Harbor") else text[0].lower() + text[1:]
            text = f"{self._fill(self._words[_LEAD], rng)} {begins}"
        return text

    def _fill(self, template: str, rng: random.Random) -> str:
        text = template
        for _ in range(_DEEPEST):
            text = _NAME.sub(lambda found: self._word(found[1], template), text)
            # Innermost brackets first, so that what was drawn inside of one that is not chosen does not matter.
            text = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), text)
            if not ("[" in text or "<" in text):
                break
        if any(mark in text for mark in "[]<>|"):
            raise ValueError(f"{template!r} is not balanced: {text!r}")
        text = re.sub(r"\s+", " ", text).strip()
        text = re.sub(r"\s+([,.?!])", r"\1", text)
        return text[0].upper() + text[1:]

    def _word(self, name: str, template: str) -> str:
        if name not in self._words:
            raise ValueError(f"{template!r} names <{name}>, known are {sorted(self._words)}")
        return self._words[name]


def load_wordings(path: Path | str) -> Wordings:
    """Read `intents` (lists of sentences by name) and `words` (lists by name) from YAML."""
    raw = yaml.safe_load(Path(path).read_text("utf-8"))
    words = {name: f"[{'|'.join(items)}]" for name, items in raw["words"].items()}
    return Wordings(raw["intents"], words)
