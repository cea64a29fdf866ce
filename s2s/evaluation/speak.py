"""Speak: a text in, the agent's voice out. The model decides when a word comes, see `models.dictated`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from s2s.checkpoint import Bundle, Speed
from s2s.data.align import steps_to_words
from s2s.data.schema import Word
from s2s.evaluation.audibility import audible_spans
from s2s.models.dictated import MAX_TOKENS, DictatedStep, DictationState, dictate, is_done
from s2s.models.offline import is_quiet, ticks
from s2s.models.step import Step
from s2s.models.traced import TracedStep
from s2s.streams import AGENT_TEXT

QUIET_S = 0.6  # an agent that has been silent for this long behind its last word has finished
TAIL_S = 8.0  # how long it may go on behind its last word at most


@dataclass(frozen=True)
class SpeakConfig:
    """Sampling; None: as the model likes it."""

    temperature: float | None = None
    top_k: int | None = None
    seed: int = 0
    speed: Speed | None = None


@dataclass
class Spoken:
    """What was said: agent [N] at `sample_rate`, its words, and how many of them the model did not ask for in time."""

    agent: np.ndarray
    sample_rate: int
    words: list[Word]
    pushed: int
    step_s: list[float]
    frame_s: float

    def to_json(self) -> dict[str, Any]:
        compute_s, audio_s = sum(self.step_s), len(self.step_s) * self.frame_s
        spans = audible_spans(self.agent, self.sample_rate)
        return {
            "text": " ".join(word.text for word in self.words),
            "words": [{"text": w.text, "start_s": round(w.start_s, 3), "end_s": round(w.end_s, 3)} for w in self.words],
            "pushed_words": self.pushed,
            "first_audio_ms": spans[0].start * 1000 / self.sample_rate if spans else None,
            "duration_s": len(self.agent) / self.sample_rate,
            "rtf": compute_s / audio_s,
            "rtfx": audio_s / compute_s,
        }


def speaking_step(bundle: Bundle, config: SpeakConfig | None = None) -> Step:
    """The step that says given texts; making it takes seconds, so who says many makes it once."""
    return bundle.step((config or SpeakConfig()).speed or bundle.defaults.speed, DictatedStep)


def speak(bundle: Bundle, text: str, config: SpeakConfig | None = None, step: Step | None = None) -> Spoken:
    """Say a text as an agent who would wait for the caller, who is silent; it ends when the agent is quiet again.

    Where the agent speaks first it has its opening in mind, which is stronger than another text. `step` is the bundle's
    `speaking_step`, if there is one already.

    Raises ValueError for a text without words, one that is too long or no text, and a model that cannot say it.
    """
    config, spec = config or SpeakConfig(), bundle.codec.spec
    words = _tokens(bundle, text)
    step = step or speaking_step(bundle, config)
    controls = bundle.controls(1, config.temperature, config.top_k, config.seed)
    if isinstance(step, TracedStep):
        step.prepare(controls)  # else the first step's time would hold the making of its graph
    state = step.init_state(1)
    assert isinstance(state, DictationState)
    dictate(state, 0, words)
    wavs, ids, seconds, quiet, behind = [], [-1], [], 0, 0  # what is said at step s belongs to frame s + 1
    for out, took in ticks(step, torch.zeros(1, 1, 0), controls, torch.tensor([True]), state):
        wavs.append(out.wav[0, 0])
        ids.append(int(out.text[AGENT_TEXT][0]))
        seconds.append(took)
        if bool(is_done(state).all()):
            behind += 1
            # Words run ahead of their sound: before the last one is heard, silence means nothing.
            heard = behind > bundle.defaults.agent_lead_steps
            quiet = quiet + 1 if heard and is_quiet(out.wav) else 0
        if quiet >= QUIET_S * spec.frame_rate or behind >= TAIL_S * spec.frame_rate:
            break
    said = F.pad(torch.cat(wavs).float(), (spec.frame_size, 0)).numpy()  # what a step says is heard one frame later
    assert bundle.tokenizer is not None
    timed = steps_to_words(ids, bundle.tokenizer, 1 / spec.frame_rate, bundle.defaults.agent_lead_steps)
    return Spoken(said, spec.sample_rate, timed, int(state.pushed[0]), seconds, float(1 / spec.frame_rate))


def _tokens(bundle: Bundle, text: str) -> list[list[int]]:
    """The tokens of each word, a space before it as in training."""
    streams = () if bundle.model is None else bundle.model.text_streams
    if bundle.tokenizer is None or AGENT_TEXT not in {stream.name for stream in streams}:
        raise ValueError(f"{bundle.name or 'this checkpoint'} holds no model that says a text")
    try:
        words = [bundle.tokenizer.encode(" " + word) for word in text.split()]
    except UnicodeEncodeError as error:
        raise ValueError(f"the text holds {error.object[error.start]!r}, which is no character") from error
    if not words:
        raise ValueError("the text has no words, so there is nothing to say")
    if (count := sum(map(len, words))) > MAX_TOKENS:
        raise ValueError(f"the text has {count} tokens, allowed are {MAX_TOKENS}")
    return words
