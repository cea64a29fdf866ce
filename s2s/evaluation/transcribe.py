"""Transcribe: a caller's recording through the step, and the caller's words as the model writes them down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from s2s.audio.resample import resample
from s2s.checkpoint import Bundle, Speed
from s2s.data.align import steps_to_words
from s2s.data.schema import Word
from s2s.models.letters import LETTER_STREAM, SpellingStep, spelled
from s2s.models.offline import num_steps, ticks
from s2s.models.step import DuplexStep
from s2s.models.traced import TracedStep
from s2s.text import Tokenizer

STREAM = "user_text"
QUIET_S = 1.0  # without a word after the recording, after which none is expected
TAIL_S = 5.0  # how long words may go on after the recording at most


@dataclass(frozen=True)
class Partial:
    """A word as soon as it is written down, `at_s` into the recording. One that grows comes again, `again`."""

    word: Word
    at_s: float
    again: bool = False


class WordsAsTheyCome:
    """Tokens of a transcript one by one -> the words that they complete, with the times they stand for.

    A word is complete with the first step behind it that adds nothing to it.
    """

    def __init__(self, tokenizer: Tokenizer, step_s: Fraction, lag_steps: int):
        self._tokenizer, self._step_s, self._lag = tokenizer, step_s, lag_steps
        self._silent = set(tokenizer.actions.values())
        self._ids: list[int] = []  # of the last word
        self._begin = self._now = 0  # steps: of its first token, and of the next token to come
        self._open = self._again = False

    def add(self, token: int) -> Partial | None:
        """What the token of the next step completes."""
        now, self._now = self._now, self._now + 1
        if not 0 <= token < self._tokenizer.vocab_size or token in self._silent:
            return self.end()
        if self._ids and not self._tokenizer.decode([token]).startswith(" "):
            self._again = self._again or not self._open
            self._ids.append(token)
            self._open = True
            return None
        complete = self.end()
        self._ids, self._begin, self._open = [token], now, True
        return complete

    def end(self) -> Partial | None:
        """The last word, unless it has been given."""
        if not self._open:
            return None
        again, self._open, self._again = self._again, False, False
        # What is said at step s belongs to frame s + 1.
        frames = [-1] * (self._begin + 1) + self._ids
        words = steps_to_words(frames, self._tokenizer, self._step_s, -self._lag, "end")
        return Partial(words[0], float(self._now * self._step_s), again) if words else None


@dataclass
class Transcription:
    """The words of a recording; `letters` is what the model spells, None where it does not."""

    words: list[Word]
    letters: str | None
    duration_s: float
    step_s: list[float]
    frame_s: float

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    def to_json(self) -> dict[str, Any]:
        compute_s, audio_s = sum(self.step_s), len(self.step_s) * self.frame_s
        words = [{"text": w.text, "start_s": round(w.start_s, 3), "end_s": round(w.end_s, 3)} for w in self.words]
        return {
            "text": self.text,
            "words": words,
            "letters": self.letters,
            "duration_s": self.duration_s,
            "rtf": compute_s / audio_s,
            "rtfx": audio_s / compute_s,
        }


def transcribe(bundle: Bundle, wav: np.ndarray, sample_rate: int, speed: Speed | None = None) -> Transcription:
    """The words of a recording [N]. Raises as `Listener` does."""
    listener = Listener(bundle, wav, sample_rate, speed)
    for _ in listener:
        pass
    return listener.result()


class Listener:
    """Iterate for the words as they come; then `result` has them all. The agent waits, and what it says is ignored."""

    def __init__(self, bundle: Bundle, wav: np.ndarray, sample_rate: int, speed: Speed | None = None):
        """Raises ValueError for an empty recording, one of several channels, and a model that writes nothing down."""
        if wav.ndim != 1 or len(wav) == 0:
            raise ValueError(f"a caller's recording has the shape [N] with N > 0, not {list(wav.shape)}")
        model = bundle.model
        if bundle.tokenizer is None or model is None or STREAM not in {s.name for s in model.text_streams}:
            raise ValueError(f"{bundle.name or 'this checkpoint'} holds no model that writes down what it hears")
        self._bundle, self._tokenizer = bundle, bundle.tokenizer
        self.spells, self._pieces = model.spelling is not None, model.config.spelling_pieces
        self._step = bundle.step(speed or bundle.defaults.speed, SpellingStep if self.spells else DuplexStep)
        heard = resample(wav, sample_rate, bundle.codec.spec.sample_rate)
        self._rows = torch.from_numpy(heard.copy())[None, None]
        self._duration_s = len(wav) / sample_rate
        self._ids: list[int] = []
        self._letters: list[int] = []
        self._seconds: list[float] = []

    def __iter__(self) -> Iterator[Partial]:
        spec, lag = self._bundle.codec.spec, self._bundle.defaults.user_lag_steps
        words = WordsAsTheyCome(self._tokenizer, 1 / spec.frame_rate, lag)
        controls = self._bundle.controls(temperature=0.0)
        if isinstance(self._step, TracedStep):
            self._step.prepare(controls)  # else the first step's time would hold the making of its graph
        length, quiet = num_steps(self._step, self._rows), 0
        for number, (out, took) in enumerate(ticks(self._step, self._rows, controls, torch.tensor([True]))):
            ids = {name: int(tokens[0]) for name, tokens in out.text.items()}
            self._seconds.append(took)
            self._ids.append(ids[STREAM])
            self._letters.append(ids.get(LETTER_STREAM, 0))
            if (partial := words.add(ids[STREAM])) is not None:
                yield partial
            said = ids[STREAM] < self._tokenizer.vocab_size
            quiet = 0 if said or number < length else quiet + 1
            if quiet >= QUIET_S * spec.frame_rate or number + 1 >= length + TAIL_S * spec.frame_rate:
                break
        if (partial := words.end()) is not None:
            yield partial

    def result(self) -> Transcription:
        spec, lag = self._bundle.codec.spec, self._bundle.defaults.user_lag_steps
        words = steps_to_words([-1, *self._ids], self._tokenizer, 1 / spec.frame_rate, -lag, "end")
        letters = spelled(self._letters, self._pieces) if self.spells else None
        return Transcription(words, letters, self._duration_s, self._seconds, float(1 / spec.frame_rate))
