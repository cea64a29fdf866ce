"""Answers: both tracks and their words on the recording's clock."""

import numpy as np
import pytest
import torch
from torch import Tensor

from s2s.checkpoint import Bundle, Defaults
from s2s.evaluation.answer import AnswerConfig, answer
from s2s.models.step import StepOut
from s2s.nn.sampling import Controls
from s2s.streams import dialogue_layout
from s2s.text import ByteTokenizer
from tests.tiny import SPEC, tiny_codec, tiny_model

FRAME, RATE = SPEC.frame_size, SPEC.sample_rate
PAD = 257


class Scripted:
    """Writes down "yes" at step 10 to 13 and says a tone in steps 14 to 18."""

    step_size, sample_rate = FRAME, RATE

    def wait(self, state: list[int], waits: Tensor) -> None: ...

    def init_state(self, rows: int) -> list[int]:
        return [0]

    def __call__(self, wav: Tensor, state: list[int], controls: Controls) -> StepOut:
        now, state[0] = state[0], state[0] + 1
        token = b" yes"[now - 10] if 10 <= now < 14 else PAD
        loud = 0.5 * torch.sin(torch.arange(FRAME) * 0.1).expand(len(wav), 1, -1)
        ids = torch.full((len(wav),), token)
        return StepOut(loud if 14 <= now < 19 else torch.zeros_like(wav), {"user_text": ids, "agent_text": ids})


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Bundle:
    layout = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, 256)
    bundle = Bundle(tiny_codec(), tiny_model(layout), ByteTokenizer(), Defaults(agent_lead_steps=2, user_lag_steps=3))
    monkeypatch.setattr(bundle, "step", lambda speed: Scripted())
    return bundle


def recording(seconds: float, rate: int = RATE) -> np.ndarray:
    wav: np.ndarray = 0.3 * np.sin(np.arange(round(seconds * rate)) * 0.1)
    return wav.astype(np.float32)


def test_what_a_step_says_is_heard_during_the_next_frame(bundle: Bundle) -> None:
    said = answer(bundle, recording(0.4), RATE)
    result = said.to_json()
    loud = np.flatnonzero(said.agent)
    # Step 14 says frame 15.
    assert loud[0] // FRAME == 15 and loud[-1] // FRAME == 19
    assert result["first_audio_ms"] == 600.0
    assert result["v2v_ms"] == 200.0
    assert len(said.caller) == len(said.agent)
    assert said.caller[: len(recording(0.4))] == pytest.approx(recording(0.4))


def test_words_stand_where_they_are_heard(bundle: Bundle) -> None:
    said = answer(bundle, recording(0.4), RATE)
    result = said.to_json()
    assert (result["caller_text"], result["agent_text"]) == ("yes", "yes")
    # Step 10 writes frame 11: the agent says it two frames later, the caller had said it three frames before.
    assert said.agent_words[0].start_s == pytest.approx(13 * 0.04)
    assert said.caller_words[0].end_s == pytest.approx(8 * 0.04)


def test_it_ends_after_two_quiet_seconds_or_at_the_limit(bundle: Bundle) -> None:
    # Silence after step 18 for 50 steps; the recording's track is one frame longer than its steps.
    assert len(answer(bundle, recording(0.4), RATE).agent) == (19 + 50 + 1) * FRAME
    assert len(answer(bundle, recording(0.4), RATE, AnswerConfig(tail_s=0.2)).agent) == (10 + 5 + 1) * FRAME


def test_an_agent_that_says_nothing_has_no_first_audio(bundle: Bundle) -> None:
    result = answer(bundle, recording(0.4), RATE, AnswerConfig(tail_s=0.0)).to_json()
    assert result["first_audio_ms"] is None and result["v2v_ms"] is None
    assert result["rtf"] > 0 and result["rtfx"] == pytest.approx(1 / result["rtf"])


def test_the_recording_is_resampled(bundle: Bundle) -> None:
    said = answer(bundle, recording(0.4, 8000), 8000)
    assert said.sample_rate == RATE
    assert np.flatnonzero(said.caller)[-1] == pytest.approx(0.4 * RATE, abs=3)


def test_bad_recordings_and_tails_are_errors(bundle: Bundle) -> None:
    for wav in (np.zeros(0, np.float32), np.zeros((2, 5), np.float32)):
        with pytest.raises(ValueError, match="has the shape"):
            answer(bundle, wav, RATE)
    with pytest.raises(ValueError, match="allowed is 0 to 3600"):
        AnswerConfig(tail_s=1e9)
