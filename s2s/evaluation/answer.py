"""Answer: a caller's recording through a loaded model, both sides on the recording's clock, with words and times."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from s2s.audio.resample import resample
from s2s.checkpoint import Bundle, Speed
from s2s.data.align import steps_to_actions, steps_to_words
from s2s.data.schema import Action, Word
from s2s.evaluation.audibility import audible_spans
from s2s.evaluation.conversation import v2v_ms
from s2s.evaluation.statistics import summarise
from s2s.models.offline import Tail, play
from s2s.models.traced import TracedStep

QUIET_S = 2.0  # an agent that has been silent for this long after the caller's last sound has finished


@dataclass(frozen=True)
class AnswerConfig:
    """How to answer: seconds of silence to go on at most, and sampling (None: as the model likes it).

    opening: the agent speaks first, with its opening; else it waits for the caller.
    """

    tail_s: float = 12.0
    temperature: float | None = None
    top_k: int | None = None
    seed: int = 0
    speed: Speed | None = None
    opening: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tail_s <= 3600:
            raise ValueError(f"the tail is {self.tail_s} s, allowed is 0 to 3600")


@dataclass
class Answer:
    """A conversation: `caller` and `agent` [N] at `sample_rate`, the words each side said, what the agent did."""

    caller: np.ndarray
    agent: np.ndarray
    sample_rate: int
    caller_words: list[Word]
    agent_words: list[Word]
    step_s: list[float]
    frame_s: float
    actions: list[Action] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return texts, words and times.

        first_audio_ms is the agent's first audible sample from the start of the recording, v2v_ms its first audible
        sample after the caller's last one; both on the recording's clock, None where there is none. step_ms is what a
        live call would wait in addition.
        """
        compute_s, audio_s = sum(self.step_s), len(self.step_s) * self.frame_s
        spans = audible_spans(self.agent, self.sample_rate)
        return {
            "caller_text": _text(self.caller_words),
            "agent_text": _text(self.agent_words),
            "first_audio_ms": spans[0].start * 1000 / self.sample_rate if spans else None,
            "v2v_ms": v2v_ms(self.caller, self.agent, self.sample_rate),
            "rtf": compute_s / audio_s,
            "rtfx": audio_s / compute_s,
            "duration_s": len(self.agent) / self.sample_rate,
            "compute_s": compute_s,
            "step_ms": summarise([seconds * 1000 for seconds in self.step_s]),
            "frame_ms": self.frame_s * 1000,
            "caller_words": _timed(self.caller_words),
            "agent_words": _timed(self.agent_words),
            "actions": [{"name": action.name, "at_s": round(action.at_s, 3)} for action in self.actions],
        }


def answer(bundle: Bundle, wav: np.ndarray, sample_rate: int, config: AnswerConfig | None = None) -> Answer:
    """Let the model hear wav [N], then silence until it has finished, and return both tracks.

    Raises ValueError for an empty recording, one of several channels, and a checkpoint without a model.
    """
    config = config or AnswerConfig()
    if wav.ndim != 1 or len(wav) == 0:
        raise ValueError(f"a caller's recording has the shape [N] with N > 0, not {list(wav.shape)}")
    step, spec = bundle.step(config.speed or bundle.defaults.speed), bundle.codec.spec
    heard = torch.from_numpy(resample(wav, sample_rate, spec.sample_rate).copy())
    tail = Tail(round(config.tail_s * spec.frame_rate), round(QUIET_S * spec.frame_rate))
    controls = bundle.controls(1, config.temperature, config.top_k, config.seed)
    if isinstance(step, TracedStep):
        step.prepare(controls)  # else the first step's time would hold the making of its graph
    played = play(step, heard[None, None], controls, tail, torch.tensor([not config.opening]))
    said = F.pad(played.wav[0, 0].float(), (spec.frame_size, 0)).numpy()  # what a step says is heard one frame later
    caller = F.pad(heard, (0, len(said) - len(heard))).numpy()
    lead, lag = bundle.defaults.agent_lead_steps, bundle.defaults.user_lag_steps
    return Answer(
        caller,
        said,
        spec.sample_rate,
        _words(bundle, played.text.get("user_text"), -lag, "end"),
        _words(bundle, played.text.get("agent_text"), lead, "start"),
        played.seconds,
        float(1 / spec.frame_rate),
        _actions(bundle, played.text.get("agent_text"), lead),
    )


def _words(bundle: Bundle, ids: torch.Tensor | None, lead: int, anchor: Any) -> list[Word]:
    """The words of a text stream [1, S]; what is said at step s belongs to frame s + 1."""
    if ids is None or bundle.tokenizer is None:
        return []
    frames = [-1, *ids[0].tolist()]
    return steps_to_words(frames, bundle.tokenizer, 1 / bundle.codec.spec.frame_rate, lead, anchor)


def _actions(bundle: Bundle, ids: torch.Tensor | None, lead: int) -> list[Action]:
    if ids is None or bundle.tokenizer is None:
        return []
    return steps_to_actions([-1, *ids[0].tolist()], bundle.tokenizer, 1 / bundle.codec.spec.frame_rate, lead)


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _timed(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [{"text": w.text, "start_s": round(w.start_s, 3), "end_s": round(w.end_s, 3)} for w in words]
