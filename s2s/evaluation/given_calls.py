"""Given calls: recordings of callers with their annotated speech, loudness-normalised, with checksums.

A line of JSON per recording: {"audio": "x.wav", "speech": [[start_s, end_s], ...], "channel": 0}. End of speech is what
the annotation says, never what a detector of the system under test finds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2s.audio.io import read_audio
from s2s.audio.resample import resample
from s2s.evaluation.audibility import Span, speech_level_db

LEVEL_DB = -26.0  # of full scale, where ITU-T P.56 puts speech on a line
SHIPPED = Path(__file__).parents[1] / "assets" / "questions" / "speech.jsonl"
_LEAD_S, _MAX_RECORDINGS = 0.3, 10_000


@dataclass(frozen=True)
class GivenCall:
    """What a caller says [N], float32, the stretches of it that are speech, and the sha256 of the files it is from."""

    name: str
    caller: np.ndarray
    sample_rate: int
    turns: tuple[Span, ...]
    checksums: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        return len(self.caller) / self.sample_rate


def read_given_calls(path: Path, sample_rate: int) -> list[GivenCall]:
    """Read the recordings that a .jsonl file lists, or the audio files of a folder, each with a .json of its speech.

    Raises ValueError for anything missing or wrong, with the file and line.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in (".wav", ".flac", ".ogg"))
        lines = [(str(file), {"audio": file.name} | _sidecar(file)) for file in files]
    else:
        lines = list(_lines(path))
    if not lines:
        raise ValueError(f"{path}: holds no recordings")
    folder = path if path.is_dir() else path.parent
    return [_read(folder, where, values, sample_rate) for where, values in lines[:_MAX_RECORDINGS]]


def compose(recordings: Sequence[GivenCall], num_turns: int, gap_s: float) -> list[GivenCall]:
    """Calls of `num_turns` recordings each, `gap_s` of silence behind each; every recording begins one of them."""
    calls = []
    for first in range(len(recordings)):
        chosen = [recordings[(first + i) % len(recordings)] for i in range(num_turns)]
        rate = chosen[0].sample_rate
        parts, turns, position = [np.zeros(round(_LEAD_S * rate), dtype=np.float32)], [], round(_LEAD_S * rate)
        for recording in chosen:
            turns += [turn.shifted(position) for turn in recording.turns]
            parts += [recording.caller, np.zeros(round(gap_s * rate), dtype=np.float32)]
            position += len(parts[-2]) + len(parts[-1])
        name = "+".join(recording.name for recording in chosen)
        checksums = tuple(dict.fromkeys(sum for recording in chosen for sum in recording.checksums))
        calls.append(GivenCall(name, np.concatenate(parts), rate, tuple(turns), checksums))
    return calls


def _sidecar(audio: Path) -> dict[str, Any]:
    path = audio.with_suffix(".json")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{audio}: nothing tells where its speech is; {path.name} with 'speech' would") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no object with 'speech'")
    return values


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(values, dict) or not isinstance(values.get("audio"), str):
            raise ValueError(f"{where} has no 'audio'")
        yield where, values


def _read(folder: Path, where: str, values: dict[str, Any], sample_rate: int) -> GivenCall:
    path = folder / values["audio"]
    wav, rate = read_audio(path)
    channel = values.get("channel", 0)
    if not isinstance(channel, int) or not 0 <= channel < len(wav):
        raise ValueError(f"{where}: there is no channel {channel}, the file has {len(wav)}")
    caller = normalise(resample(wav[channel], rate, sample_rate), sample_rate)
    turns = _turns(where, values.get("speech"), len(caller), sample_rate)
    return GivenCall(path.stem, caller, sample_rate, turns, (hashlib.sha256(path.read_bytes()).hexdigest(),))


def _turns(where: str, speech: Any, size: int, rate: int) -> tuple[Span, ...]:
    wrong = ValueError(f"{where}: 'speech' must be [[start_s, end_s], ...] in order and inside the recording")
    try:
        spans = [(round(float(start) * rate), round(float(end) * rate)) for start, end in speech]
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    edges = [edge for span in spans for edge in span]
    if not edges or edges[0] < 0 or edges[-1] > size or edges != sorted(edges):
        raise wrong
    return tuple(Span(start, end) for start, end in spans)


def normalise(wav: np.ndarray, sample_rate: int, level_db: float = LEVEL_DB) -> np.ndarray:
    """Bring the speech of wav [N] to a level of full scale, not beyond its peak; silence stays as it is."""
    level = speech_level_db(wav, sample_rate)
    if level is None:
        return wav
    gain = min(10 ** ((level_db - level) / 20), 0.99 / float(np.max(np.abs(wav))))
    return (wav * gain).astype(np.float32)
