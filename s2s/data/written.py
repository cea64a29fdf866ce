"""Calls that are only written: what is said and when, without any sound, or with that of the agent alone.

What callers mean can be learned from words alone, and words cost nothing: any number of wordings, every parcel number.
A model reads such calls instead of hearing them (see `s2s.train.reading`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from s2s.data.calls import Call, CallConfig, Material
from s2s.data.clips import Clip
from s2s.data.desk import Desk, speak_digits
from s2s.data.schema import Dialogue, Word
from s2s.data.utterances import Callers
from s2s.data.wishes import CORRECTIONS, Wishes
from s2s.phrases import DIGIT_WORDS

WRITTEN = "written calls"  # the name of the source in its shards
# How long words take: a fit to 869 clips of callers.
WORD_S, LETTER_S, COMMA_S = 0.056, 0.045, 0.098
SPEED = (0.8, 1.25)
# Without sound nobody can tell that a pause is one for thinking.
ONLY_WORDS = CallConfig(
    turns=(0.15, 0.25, 0.3, 0.3),
    caller_first=0.6,
    over_opening=0.1,
    barge_in=0.15,
    thinking_pause=0.0,
    long_wait=0.02,
    nobody_speaks=0.02,
    speed=(1.0, 1.0),
)


@dataclass(frozen=True)
class Line:
    """A sentence of a caller who means `intent`, with the digits that it says."""

    text: str
    intent: str
    digits: str = ""


class WrittenCalls:
    """Calls of a desk as rows by number; each is a function of the seed, the split and its number."""

    def __init__(
        self, desk: Desk, replies: Iterable[Clip], lines: Iterable[Line], weights: Mapping[str, float], count: int,
        split: str = "train", seed: int = 0, config: CallConfig = ONLY_WORDS, spoken: bool = False,
        paces: tuple[float, ...] = (1.0,), unclear_again: float = 0.25, corrections: float = CORRECTIONS,
    ) -> None:  # fmt: skip
        """Args:
        replies: renditions of every fixed reply, and of a read-back of each length, whose times are taken.
        spoken: the agent is heard, and so reads back no numbers but those of the renditions.
        paces: each call has one of these, see `align.hurried`; where the agent is heard, words keep their time.
        unclear_again, corrections: as in `Wishes`.
        """
        if spoken and set(paces) != {1.0}:
            raise ValueError(f"paces are {list(paces)}, allowed is 1 where the agent is heard")
        self.name, self._written = WRITTEN, ("user",) if spoken else ("user", "agent")
        self._count, self._split, self._seed, self._config, self._paces = count, split, seed, config, paces
        rng, longest = random.Random(f"written {seed}"), round(config.longest_s * config.sample_rate)
        self._nothing = np.broadcast_to(np.int16(0), longest)
        clips = [self._said(line, rng) for line in lines]
        numbers = set() if spoken else {line.digits for line in lines} - {""}
        renditions = self._renditions(replies, numbers, desk)
        callers = Callers(clips, config.sample_rate, {digits for _, digits in renditions})
        wishes = Wishes(desk, weights, callers.has, unclear_again, corrections)
        self._material = Material(desk, renditions, callers, wishes)

    def __len__(self) -> int:
        return self._count

    def row_id(self, index: int) -> str:
        return f"written-{self._split}-{self._seed}-{index:07d}"

    def __getitem__(self, index: int) -> Dialogue:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self._seed, index))
        call = Call(self._material, self._config, self._split, rng).run(self.row_id(index))
        return replace(call, written=self._written, pace=float(rng.choice(self._paces)))

    def _said(self, line: Line, rng: random.Random) -> Clip:
        words = list(place_by_letters(line.text, rng.uniform(*SPEED)))
        end_s = words[-1].end_s
        pcm = self._nothing[: round(end_s * self._config.sample_rate)]
        return Clip(pcm, line.text, line.intent, line.digits, "", 1.0, 0, "", 0.0, end_s, tuple(words), ())

    def _renditions(
        self, replies: Iterable[Clip], numbers: Iterable[str], desk: Desk
    ) -> dict[tuple[str, str], list[Clip]]:
        found: dict[tuple[str, str], list[Clip]] = {}
        read_backs: dict[int, Clip] = {}
        for clip in replies:
            found.setdefault((clip.key, clip.digits), []).append(clip)
            read_backs.setdefault(len(clip.digits), clip)
        if missing := [key for key in desk.fixed_replies() if (key, "") not in found]:
            raise ValueError(f"no clip of the replies {missing}")
        for digits in sorted(set(numbers) - {digits for _, digits in found}):
            if (model := read_backs.get(len(digits))) is None:
                raise ValueError(f"no clip reads {len(digits)} digits back, as {digits!r} needs")
            found[model.key, digits] = [with_digits(model, digits)]
        return found


def place_by_letters(text: str, speed: float) -> Iterator[Word]:
    """The words of a sentence with times as long as their letters let expect."""
    at = 0.0
    for word in text.split():
        end = at + (WORD_S + LETTER_S * len(word)) / speed
        yield Word(word, at, end)
        at = end + (COMMA_S / speed if word[-1] in ",.?!" else 0.0)


def with_digits(clip: Clip, digits: str) -> Clip:
    """A rendition that reads back other digits, at the times of those that it has."""
    spoken, at = speak_digits(digits).split(), 0
    words = []
    for word in clip.words:
        if word.text.strip(".,").lower() in DIGIT_WORDS:
            bare = word.text.rstrip(".,")
            word = replace(word, text=spoken[at] + word.text[len(bare) :])
            at += 1
        words.append(word)
    if at != len(spoken):
        raise ValueError(f"{clip.text!r} says {at} digits, not the {len(spoken)} of {digits!r}")
    return replace(clip, digits=digits, text=" ".join(word.text for word in words), words=tuple(words))
