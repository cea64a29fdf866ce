"""Wordings: sentences with choices, from which many ways to say one thing are drawn.

    "[Can|Could] you [find|trace] <my> <parcel>[, please|]?"

[a|b|] is one of its parts, the last one here nothing; <name> stands for a list of such text by name; lists may nest.
"""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_NAME = re.compile(r"<(\w+)>")
_DEEPEST = 8


@dataclass(frozen=True)
class Leads:
    """Words before a sentence, such as "Um," or "Hello,".

    text: with choices; share: of the sentences that have one; without: intents that never do, as greetings themselves;
    capitals: words that keep their capital behind one.
    """

    text: str
    share: float = 0.25
    without: Collection[str] = ()
    capitals: Collection[str] = ("I",)


class Wordings:
    """Sentences of each intent, drawn at random."""

    def __init__(self, intents: Mapping[str, Sequence[str]], words: Mapping[str, str], leads: Leads | None = None):
        """Args: words: lists by name, as text with choices.

        Raises ValueError for a sentence with an unknown name or an open bracket.
        """
        self.intents, self._words, self._leads = intents, words, leads
        for intent, templates in intents.items():
            for template in templates:
                try:
                    self._fill(template, random.Random(0))
                except ValueError as error:
                    raise ValueError(f"{intent}: {error}") from None

    def draw(self, intent: str, rng: random.Random) -> str:
        """A sentence; slots such as {number} stay as they are."""
        text = self._fill(rng.choice(self.intents[intent]), rng)
        leads = self._leads
        if leads is not None and intent not in leads.without and rng.random() < leads.share:
            keeps = text.split()[0].split("'")[0] in leads.capitals
            text = f"{self._fill(leads.text, rng)} {text if keeps else text[0].lower() + text[1:]}"
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


def load_wordings(*paths: Path | str) -> Wordings:
    """Read `intents` (lists of sentences by name), `words` (lists by name) and `leads` from YAML, those of all files.

    Raises ValueError for words or leads that two files have.
    """
    intents: dict[str, list[str]] = {}
    words: dict[str, str] = {}
    leads: Leads | None = None
    for path in paths:
        raw = yaml.safe_load(Path(path).read_text("utf-8"))
        if twice := set(words) & set(raw.get("words", {})) | ({"leads"} if leads and "leads" in raw else set()):
            raise ValueError(f"{path}: {sorted(twice)} are in another file already")
        words |= {name: f"[{'|'.join(items)}]" for name, items in raw.get("words", {}).items()}
        leads = Leads(**raw["leads"]) if "leads" in raw else leads
        for intent, sentences in raw["intents"].items():
            intents.setdefault(intent, []).extend(sentences)
    return Wordings(intents, words, leads)
