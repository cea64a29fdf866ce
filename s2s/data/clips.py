"""Clips of speech for composing dialogues: tables of encoded audio, decoded once into a cache shared by processes."""

import glob
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from s2s.audio.io import AudioError, read_audio
from s2s.audio.pcm import float_to_int16
from s2s.audio.resample import resample
from s2s.data.schema import Word
from s2s.data.wordtimes import find_pauses, place_words

log = logging.getLogger(__name__)

_CACHE_VERSION = 1


@dataclass(frozen=True)
class Clip:
    """One utterance: pcm int16 [N] and what is known about it. Times in seconds from the start of the clip.

    `part` is 1 or 2 for the halves of an utterance split at a thinking pause (`pair` is the other half's text), else 0.
    `pauses` are (start_s, end_s) of silences inside.
    """

    pcm: np.ndarray
    text: str
    intent: str
    digits: str
    voice: str
    pitch: float
    part: int
    pair: str
    speech_start_s: float
    speech_end_s: float
    words: tuple[Word, ...]
    pauses: tuple[tuple[float, float], ...]
    key: str = ""
    kind: str = ""


def expand(patterns: Iterable[str]) -> list[Path]:
    """The files that these globs or paths match, each once, sorted; ValueError for a pattern without a file."""
    found: set[Path] = set()
    for pattern in patterns:
        names = glob.glob(pattern)
        if not names:
            raise ValueError(f"no clips match {pattern!r}")
        found |= {Path(name) for name in names}
    return sorted(found)


def load_clips(paths: Iterable[Path], cache: Path, sample_rate: int) -> list[Clip]:
    """Clips of parquet tables with `audio` bytes, and where they have them the other columns that Clip names.

    `intent` loses a leading underscore; `speech_start`, `speech_end` and `words` (JSON of [text, start, end]) are
    computed where missing. Decoded audio lies in `cache` as raw int16, mapped into memory.
    """
    clips: list[Clip] = []
    for path in paths:
        name = f"{path.stem}-{_fingerprint(path, sample_rate)}"
        table, sound = cache / f"{name}.json", cache / f"{name}.pcm"
        if not table.exists():
            _decode(path, table, sound, sample_rate)
        pcm = np.memmap(sound, np.int16, "r")
        for row in json.loads(table.read_text("utf-8")):
            start, length = row.pop("start"), row.pop("length")
            row["words"] = tuple(Word(*word) for word in row["words"])
            row["pauses"] = tuple((a, b) for a, b in row["pauses"])
            clips.append(Clip(pcm=pcm[start : start + length], **row))
    return clips


def _fingerprint(path: Path, sample_rate: int) -> str:
    key = f"{_CACHE_VERSION} {path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns} {sample_rate}"
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def _decode(path: Path, table: Path, sound: Path, sample_rate: int) -> None:
    """Write the samples and the descriptions of one file; rows that are not audio are left out, with a warning."""
    table.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    length = bad = 0
    partial = sound.with_suffix(f".{os.getpid()}")
    with partial.open("wb") as file:
        for batch in pq.ParquetFile(path).iter_batches(64):
            for raw in batch.to_pylist():
                try:
                    wav, rate = read_audio(raw["audio"])
                except AudioError as error:
                    log.debug("%s: %r left out: %s", path.name, raw.get("text"), error)
                    bad += 1
                    continue
                wav = resample(wav.mean(axis=0), rate, sample_rate)
                file.write(float_to_int16(wav).tobytes())
                rows.append(_describe(raw, wav, sample_rate) | {"start": length, "length": len(wav)})
                length += len(wav)
    partial.replace(sound)
    if bad:
        log.warning("%s: %d of %d rows are not audio and are left out", path, bad, bad + len(rows))
    partial.write_text(json.dumps(rows), "utf-8")
    partial.replace(table)


def _describe(raw: dict[str, Any], wav: np.ndarray, sample_rate: int) -> dict[str, Any]:
    words = [Word(*word) for word in json.loads(raw["words"])] if raw.get("words") else None
    words = words if words is not None else place_words(raw.get("text") or "", wav, sample_rate)
    start = words[0].start_s if words else 0.0
    end = words[-1].end_s if words else len(wav) / sample_rate
    return {
        "text": raw.get("text") or "",
        "intent": (raw.get("intent") or "").lstrip("_"),
        "digits": raw.get("digits") or "",
        "voice": raw.get("voice") or "",
        "pitch": raw.get("pitch") or 1.0,
        "part": raw.get("part") or 0,
        "pair": raw.get("pair") or "",
        "speech_start_s": raw.get("speech_start", start),
        "speech_end_s": raw.get("speech_end", end),
        "words": [list(asdict(word).values()) for word in words],
        "pauses": find_pauses(wav, sample_rate),
        "key": raw.get("key") or "",
        "kind": raw.get("kind") or "",
    }
