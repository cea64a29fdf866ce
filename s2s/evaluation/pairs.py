"""Pairs: recordings of a caller and of what any system answered, in the layout of Full-Duplex-Bench or listed in JSON.

A folder per sample holds `input.wav`, `output.wav`, perhaps `output.json` (the words) and one of `pause.json`,
`turn_taking.json`, `interrupt.json`; without the three it is a sample of backchannels. A .jsonl file has a line per
sample: {"task", "output" or "stereo" (agent on the right), "turn_end_s", "words": [[text, start_s, end_s], ...]}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2s.audio.io import read_audio
from s2s.data.schema import Word
from s2s.evaluation.audibility import audible_spans
from s2s.evaluation.full_duplex import TASKS, Sample, Task
from s2s.evaluation.recognise import Hears

_ANNOTATIONS: dict[str, Task] = {
    "pause.json": "pause_handling",
    "turn_taking.json": "turn_taking",
    "interrupt.json": "interruption",
}
_END = {"turn_taking": 0, "interruption": 1}  # which of an annotation's two times ends the caller's turn


@dataclass(frozen=True)
class Pair:
    """Where a sample is: its agent's recording (`channel` of it) and what is known about it."""

    name: str
    task: Task
    audio: Path
    channel: int = 0
    turn_end_s: float | None = None
    words: tuple[Word, ...] | None = None
    people: tuple[float, ...] | None = None

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.audio.read_bytes()).hexdigest()


def find_pairs(path: Path, people: Mapping[str, list[float]] | None = None) -> list[Pair]:
    """Raises ValueError for anything missing or wrong, with the file."""
    if path.is_dir():
        folders = sorted({output.parent for output in path.rglob("output.wav")})
        pairs = [_from_folder(folder, people or {}) for folder in folders]
    else:
        pairs = list(_from_lines(path))
    if not pairs:
        raise ValueError(f"{path}: holds no samples: folders with output.wav, or lines of JSON")
    return pairs


def open_sample(pair: Pair, recogniser: Hears | None) -> Sample:
    """Read the recording, and hear its words where they are not given.

    Raises ValueError where they are neither given nor can be heard.
    """
    wav, rate = read_audio(pair.audio)
    if pair.channel >= len(wav):
        raise ValueError(f"{pair.audio}: there is no channel {pair.channel}, the file has {len(wav)}")
    agent: np.ndarray = wav[pair.channel]
    words = pair.words
    if words is None:
        if recogniser is None:
            raise ValueError(f"{pair.name}: no words are given and no recogniser is asked for")
        words = recogniser.transcribe(agent, rate).words
    spans = audible_spans(agent, rate) if pair.task == "backchannel" else []
    return Sample(pair.name, pair.task, words, len(agent) / rate, pair.turn_end_s, spans, rate, pair.people)


def _from_folder(folder: Path, people: Mapping[str, list[float]]) -> Pair:
    found = [name for name in _ANNOTATIONS if (folder / name).exists()]
    if len(found) > 1:
        raise ValueError(f"{folder}: {' and '.join(found)} are of different tasks")
    task: Task = _ANNOTATIONS[found[0]] if found else "backchannel"
    end_s = None
    if task in _END:
        annotation = _json(folder / found[0])
        try:
            end_s = float(annotation[0]["timestamp"][_END[task]])
        except (LookupError, TypeError, ValueError):
            raise ValueError(f"{folder / found[0]}: has no [0]['timestamp'] of two times") from None
    words = _chunks(folder / "output.json") if (folder / "output.json").exists() else None
    spread = people.get(folder.name)
    return Pair(str(folder), task, folder / "output.wav", 0, end_s, words, None if spread is None else tuple(spread))


def _chunks(path: Path) -> tuple[Word, ...]:
    values = _json(path)
    try:
        return tuple(
            Word(str(chunk["text"]).strip(), float(chunk["timestamp"][0]), float(chunk["timestamp"][1]))
            for chunk in values["chunks"]
        )
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{path}: has no 'chunks' with 'text' and 'timestamp'") from None


def _from_lines(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        yield _pair(path.parent, where, values)


def _pair(folder: Path, where: str, values: Any) -> Pair:
    if not isinstance(values, dict) or values.get("task") not in TASKS:
        raise ValueError(f"{where}: 'task' must be one of {', '.join(TASKS)}")
    audio = values.get("output", values.get("stereo"))
    if not isinstance(audio, str):
        raise ValueError(f"{where}: has neither 'output' nor 'stereo', a recording")
    try:
        words = values.get("words")
        said = None if words is None else tuple(Word(str(t), float(start), float(end)) for t, start, end in words)
        end_s = values.get("turn_end_s")
        people = values.get("people")
        return Pair(
            f"{where} ({audio})",
            values["task"],
            folder / audio,
            0 if "output" in values else 1,
            None if end_s is None else float(end_s),
            said,
            None if people is None else tuple(map(float, people)),
        )
    except (TypeError, ValueError):
        message = "'words' must be [[text, start_s, end_s], ...], 'turn_end_s' a number, 'people' numbers"
        raise ValueError(f"{where}: {message}") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
