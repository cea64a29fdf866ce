"""Words on the step clock: word times to one text token per step, and back.

Every word is encoded with one space in front of it, which is how words are told apart again in a stream of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np

from s2s.data.schema import Action, EncodedDialogue, Word
from s2s.text import Tokenizer

# The agent's first word is decided before its sound: each step of lead is one less in which to hear the caller out.
AGENT_LEAD_STEPS = 1
USER_LAG_STEPS = 3
LONGEST_WORD_STEPS = 16  # tokens of one speaker that are further apart belong to two turns
TURN_STEPS = 6  # least silence before a caller's turn in a hurried row, where there is one

Anchor = Literal["start", "end"]


def pad_id(tokenizer: Tokenizer) -> int:
    """The id of a step without a token: the pad id of a text stream over this tokenizer."""
    return tokenizer.vocab_size + 1


def words_to_steps(
    words: Iterable[Word],
    tokenizer: Tokenizer,
    num_steps: int,
    step_s: Fraction,
    lead_steps: int = AGENT_LEAD_STEPS,
    anchor: Anchor = "start",
) -> np.ndarray:
    """Text tokens of one speaker, int16 [T], `pad_id(tokenizer)` where nothing stands.

    A word's first token stands `lead_steps` before the step in which it starts (anchor "start": floor of its start) or
    the step by which it is over (anchor "end": ceiling of its end); a negative lead is a lag. A word waits until the
    tokens before it are out. What would stand before step 0 stands at 0; what would stand past the end is cut off.
    """
    if tokenizer.vocab_size + 2 > np.iinfo(np.int16).max:
        raise ValueError(f"vocab_size {tokenizer.vocab_size} does not fit 16 bit token ids")
    steps = np.full(num_steps, pad_id(tokenizer), dtype=np.int16)
    free = 0
    for word in sorted(words, key=lambda word: word.start_s if anchor == "start" else word.end_s):
        step = _anchor_step(word, step_s, anchor)
        if word.text.split() != [word.text]:
            raise ValueError(f"word {word.text!r} must be non-empty and without white space")
        free = max(free, step - lead_steps)
        if free >= num_steps:
            break
        ids = tokenizer.encode(" " + word.text)[: num_steps - free]
        steps[free : free + len(ids)] = ids
        free += len(ids)
    return steps


def steps_to_words(
    steps: Sequence[int] | np.ndarray,
    tokenizer: Tokenizer,
    step_s: Fraction,
    lead_steps: int = AGENT_LEAD_STEPS,
    anchor: Anchor = "start",
) -> list[Word]:
    """Words of a stream of text tokens [T] with the times they stand for.

    Texts come back exactly; the anchored time comes back to one step where words did not have to wait, the other end
    of a word is estimated from its number of tokens.
    """
    words: list[Word] = []
    for begin, ids in _group(steps, tokenizer):
        text = tokenizer.decode(ids).strip(" ")
        if not text:
            continue
        time = max(0, begin + lead_steps) * step_s
        length = len(ids) * step_s
        start, end = (time, time + length) if anchor == "start" else (max(Fraction(0), time - length), time)
        words.append(Word(text, float(start), float(end)))
    return words


def hurried(row: EncodedDialogue, pace: float, pad: int) -> EncodedDialogue:
    """A row without sound in which one speaker's tokens follow each other in `pace` of the steps they took.

    What is said in it is then learned in a fraction of the steps. The caller also waits less long before speaking;
    before the agent speaks all takes as long as it did, as when to reply is not to be learned from a hurried row.
    """
    user, agent = row.user_text != pad, row.agent_text != pad
    kept = np.ones(row.num_frames, dtype=bool)
    for before, after in pairwise(np.flatnonzero(user | agent)):
        between = after - before - 1
        if agent[before] and user[after] and not agent[after]:
            kept[before + 1 + round(between * pace) : max(0, after - TURN_STEPS)] = False
        elif user[before] == user[after] and agent[before] == agent[after] and between < LONGEST_WORD_STEPS:
            kept[before + 1 + round(between * pace) : after] = False
    return replace(
        row, user=row.user[:, kept], agent=row.agent[:, kept], user_text=row.user_text[kept],
        agent_text=row.agent_text[kept], agent_active=row.agent_active[kept], meta=row.meta | {"pace": pace},
    )  # fmt: skip


def actions_to_steps(
    steps: np.ndarray,
    actions: Iterable[Action],
    tokenizer: Tokenizer,
    step_s: Fraction,
    lead_steps: int = AGENT_LEAD_STEPS,
) -> None:
    """Put the agent's actions into its text tokens [T], each at its time in the first step where nothing stands.

    Raises ValueError for an action that the tokenizer does not know; one that finds no room is left out.
    """
    for action in sorted(actions, key=lambda action: action.at_s):
        if action.name not in tokenizer.actions:
            raise ValueError(f"action {action.name!r} is none of the tokenizer's: {sorted(tokenizer.actions)}")
        first = max(0, _anchor_step(Word(action.name, action.at_s, action.at_s), step_s, "end") - lead_steps)
        free = np.flatnonzero(steps[first:] == pad_id(tokenizer))
        if free.size:
            steps[first + free[0]] = tokenizer.actions[action.name]


def steps_to_actions(
    steps: Sequence[int] | np.ndarray, tokenizer: Tokenizer, step_s: Fraction, lead_steps: int = AGENT_LEAD_STEPS
) -> list[Action]:
    """The actions in a stream of the agent's text tokens [T], with the times they stand for."""
    names = {index: name for name, index in tokenizer.actions.items()}
    found = ((step, names.get(int(value))) for step, value in enumerate(steps))
    return [Action(name, float((step + lead_steps) * step_s)) for step, name in found if name is not None]


def clean_words(words: Iterable[Word]) -> list[Word]:
    """Words fit for alignment: without white space (an entry of several words shares its time), sorted by start."""
    out: list[Word] = []
    for word in words:
        parts = word.text.split()
        total = sum(len(part) for part in parts)
        done = 0
        for part in parts:
            span = word.end_s - word.start_s
            start = word.start_s + span * done / total
            done += len(part)
            end = word.end_s if done == total else word.start_s + span * done / total
            out.append(Word(part, start, end))
    return sorted(out, key=lambda word: word.start_s)


def _anchor_step(word: Word, step_s: Fraction, anchor: Anchor) -> int:
    # Times are rounded to microseconds first: 0.12 s as a float lies a hair below three steps of 0.04 s.
    if anchor == "start":
        return math.floor(Fraction(round(word.start_s * 1_000_000), 1_000_000) / step_s)
    return math.ceil(Fraction(round(word.end_s * 1_000_000), 1_000_000) / step_s)


def _group(steps: Sequence[int] | np.ndarray, tokenizer: Tokenizer) -> list[tuple[int, list[int]]]:
    """(step of the first token, ids) of every word."""
    groups: list[tuple[int, list[int]]] = []
    silent = set(tokenizer.actions.values())
    for step, value in enumerate(steps):
        token = int(value)
        if not 0 <= token < tokenizer.vocab_size or token in silent:
            continue
        if not groups or tokenizer.decode([token]).startswith(" "):
            groups.append((step, []))
        groups[-1][1].append(token)
    return groups
