"""Word times as files and tables spell them: lists, records or JSON, to `Word`s and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s2s.data.align import clean_words
from s2s.data.schema import DialogueError, Word

AGENT_SPEAKERS = ("SPEAKER_MAIN",)
USER_SPEAKER = "SPEAKER_OTHER"


def parse_words(value: Any) -> list[Word]:
    """Words of one speaker from a list (or its JSON) of `[text, [start, end]]`, `[text, start, end]` or records.

    Records have `text` or `word`, and `start`, `end` (or `start_s`, `end_s`) in seconds. None is no words.
    """
    return clean_words(_word(entry) for entry in _entries(value))


def parse_alignments(value: Any, agent_speakers: Sequence[str] = AGENT_SPEAKERS) -> tuple[list[Word], list[Word]]:
    """(user words, agent words) from `[[text, [start, end], speaker], ...]`; who is not an agent is the user."""
    user: list[Word] = []
    agent: list[Word] = []
    for entry in _entries(value):
        speaker = entry[2] if isinstance(entry, Sequence) and len(entry) == 3 else None
        if not isinstance(speaker, str):
            raise DialogueError(f"alignment {entry!r} is not [text, [start, end], speaker]")
        (agent if speaker in agent_speakers else user).append(_word(entry[:2]))
    return clean_words(user), clean_words(agent)


def format_words(words: Iterable[Word]) -> list[list[Any]]:
    """`[[text, [start, end]], ...]`, times to the millisecond."""
    return [[word.text, [round(word.start_s, 3), round(word.end_s, 3)]] for word in words]


def format_alignments(user_words: Iterable[Word], agent_words: Iterable[Word]) -> list[list[Any]]:
    """`[[text, [start, end], speaker], ...]` of both speakers in order of time."""
    entries = [[*entry, AGENT_SPEAKERS[0]] for entry in format_words(agent_words)]
    entries += [[*entry, USER_SPEAKER] for entry in format_words(user_words)]
    return sorted(entries, key=lambda entry: entry[1][0])


def _entries(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DialogueError(f"words are not JSON: {error}") from error
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DialogueError(f"words are a list, got {type(value).__name__}")
    return list(value)


def _word(entry: Any) -> Word:
    try:
        if isinstance(entry, Mapping):
            text = entry["text"] if "text" in entry else entry["word"]
            start, end = entry.get("start", entry.get("start_s")), entry.get("end", entry.get("end_s"))
        elif len(entry) == 2:
            text, (start, end) = entry
        else:
            text, start, end = entry
        if not isinstance(text, str):
            raise TypeError("the text is not a string")
        return Word(text, float(start), float(end))
    except (KeyError, TypeError, ValueError) as error:
        raise DialogueError(f"word entry {entry!r} is not a text with a start and an end ({error})") from error
