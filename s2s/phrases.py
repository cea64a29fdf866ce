"""Phrases: the sentences that an agent may write, as a file beside its weights.

A desk has approved what it says. A model that has learned this says it most of the time; one that may write nothing
else never says half of one sentence and half of another, never promises what nobody has agreed to, and acts only behind
the sentence that announces it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from s2s.config import from_dict, to_dict
from s2s.text import Tokenizer

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MAX_EDGES = 100_000
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Phrase:
    """A text, `{name}` in it for a slot, and the action that may follow it."""

    text: str
    action: str = ""


@dataclass(frozen=True)
class Phrases:
    """What an agent may write. slots: how many digits each holds; they are read one by one ("four two seven one")."""

    phrases: tuple[Phrase, ...]
    slots: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.phrases:
            raise ValueError("phrases is empty, so the agent could say nothing")
        for phrase in self.phrases:
            if not phrase.text.split():
                raise ValueError(f"phrase {phrase.text!r} has no words")
            for word in phrase.text.split():
                for name in _SLOT.findall(word):
                    if not 1 <= self.slots.get(name, 0) <= 64:
                        raise ValueError(f"phrase {phrase.text!r}: slot {name!r} has no number of digits from 1 to 64")

    @classmethod
    def from_json(cls, text: str) -> Phrases:
        """Read what `to_json` writes; ValueError for anything else."""
        try:
            fields = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from error
        return from_dict(cls, fields)

    def to_json(self) -> str:
        return json.dumps(to_dict(self), indent=1) + "\n"

    def graph(self, tokenizer: Tokenizer) -> Graph:
        """The phrases in tokens; ValueError for actions that the tokenizer does not know, and far too many phrases."""
        graph = Graph()
        for phrase in self.phrases:
            at = 0
            for word in phrase.text.split():
                for choices in self._choices(word):
                    at = graph.add(at, [tokenizer.encode(" " + choice) for choice in choices])
            graph.final.add(at)
            if phrase.action:
                if phrase.action not in tokenizer.actions:
                    known = sorted(tokenizer.actions)
                    raise ValueError(f"action {phrase.action!r} is none of the tokenizer's: {known}")
                graph.final.add(graph.add(at, [[tokenizer.actions[phrase.action]]]))
            if len(graph.edges) > MAX_EDGES:
                raise ValueError(f"the phrases have more than {MAX_EDGES} tokens")
        return graph

    def _choices(self, word: str) -> Iterator[Sequence[str]]:
        """The words, each with its choices, that a word with or without a slot stands for."""
        found = _SLOT.search(word)
        if found is None:
            yield [word]
            return
        before, after, count = word[: found.start()], word[found.end() :], self.slots[found[1]]
        for place in range(count):
            first, last = before if place == 0 else "", after if place == count - 1 else ""
            yield [first + digit + last for digit in DIGIT_WORDS]


@dataclass
class Graph:
    """Places between tokens, 0 before any phrase. edges: (from, token, to). final: places behind a whole phrase."""

    edges: list[tuple[int, int, int]] = field(default_factory=list)
    final: set[int] = field(default_factory=set)
    places: int = 1

    def add(self, at: int, choices: Sequence[Sequence[int]]) -> int:
        """One of several runs of tokens from the place `at` to a new one, which is returned."""
        end, self.places = self.places, self.places + 1
        for tokens in choices:
            here = at
            for token in tokens[:-1]:
                self.edges.append((here, token, self.places))
                here, self.places = self.places, self.places + 1
            self.edges.append((here, tokens[-1], end))
        return end
