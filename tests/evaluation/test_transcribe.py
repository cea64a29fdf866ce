"""The caller's words as the model writes them down."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from s2s.checkpoint import Bundle, Defaults
from s2s.evaluation.transcribe import Listener, WordsAsTheyCome, transcribe
from s2s.models.step import StepOut
from s2s.nn.sampling import Controls
from s2s.streams import dialogue_layout
from s2s.text import BpeTokenizer, ByteTokenizer
from tests.tiny import SPEC, tiny_codec, tiny_model

FRAME, RATE, PAD = SPEC.frame_size, SPEC.sample_rate, 257
LAYOUT = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, 256)


class Scribe:
    """Writes " go on" from step 10 on, with a gap before its last letter, and spells "go"."""

    step_size, sample_rate = FRAME, RATE

    def __init__(self) -> None:
        self.waits: list[bool] = []

    def wait(self, state: list[int], waits: Tensor) -> None:
        self.waits = waits.tolist()

    def init_state(self, rows: int) -> list[int]:
        return [0]

    def __call__(self, wav: Tensor, state: list[int], controls: Controls) -> StepOut:
        now, state[0] = state[0], state[0] + 1
        written = dict(enumerate(b" go o", 10)) | {18: ord("n")}
        ids = torch.tensor([written.get(now, PAD)])
        letters = torch.tensor([{8: 8, 9: 8, 11: 16}.get(now, 0)])
        return StepOut(torch.zeros_like(wav), {"user_text": ids, "agent_text": ids, "letters": letters})


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Bundle:
    model = tiny_model(LAYOUT, spelling_layer=1)
    bundle = Bundle(tiny_codec(), model, ByteTokenizer(), Defaults(user_lag_steps=3))
    scribe = Scribe()
    monkeypatch.setattr(bundle, "step", lambda speed, kind: scribe)
    return bundle


def recording(seconds: float) -> np.ndarray:
    return np.full(round(seconds * RATE), 0.1, dtype=np.float32)


def test_words_come_when_they_are_complete_and_again_when_they_grow(bundle: Bundle) -> None:
    listener = Listener(bundle, recording(0.6), RATE)
    partials = list(listener)
    assert [(p.word.text, p.again) for p in partials] == [("go", False), ("o", False), ("on", True)]
    # " go" is written in steps 10 to 12 and over in 13, whose frame has been heard at 14 * 40 ms.
    assert [p.at_s for p in partials] == pytest.approx([14 * 0.04, 16 * 0.04, 20 * 0.04])
    result = listener.result()
    assert (result.text, result.letters) == ("go on", "go")
    # What step 10 writes belongs to frame 11; the caller had said it three frames before.
    assert result.words[0].end_s == pytest.approx(8 * 0.04)
    assert [(p.word.start_s, p.word.end_s) for p in (partials[0], partials[2])] == [
        (word.start_s, word.end_s) for word in result.words
    ]
    assert listener._step.waits == [True], "the agent lets the caller speak"  # type: ignore[attr-defined]


def test_it_ends_when_no_word_has_come_for_a_second(bundle: Bundle) -> None:
    result = transcribe(bundle, recording(0.6), RATE)
    assert len(result.step_s) == 19 + 25, "a second behind the last letter"
    values = result.to_json()
    assert values["duration_s"] == pytest.approx(0.6) and values["rtfx"] == pytest.approx(1 / values["rtf"])


def test_a_model_without_spelling_has_no_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2s.evaluation.transcribe.TAIL_S", 0.2)  # random weights never stop writing
    result = transcribe(Bundle(tiny_codec(), tiny_model(LAYOUT), ByteTokenizer()), recording(0.2), RATE, "exact")
    assert result.letters is None
    spelling = Bundle(tiny_codec(), tiny_model(LAYOUT, spelling_layer=1), ByteTokenizer())
    assert transcribe(spelling, recording(0.2), RATE, "exact").letters is not None


def test_actions_are_no_words() -> None:
    tokenizer = BpeTokenizer.train(["hm"], 257, ("hangup",))
    words = WordsAsTheyCome(tokenizer, Fraction(1, 25), 3)
    found = [words.add(token) for token in [*tokenizer.encode(" hm"), tokenizer.actions["hangup"], 300]]
    assert [p.word.text for p in found if p] == ["hm"] and found[3] is not None and words.end() is None


def test_what_cannot_be_transcribed_is_an_error(bundle: Bundle) -> None:
    for wav in (np.zeros(0, np.float32), np.zeros((2, 5), np.float32)):
        with pytest.raises(ValueError, match="has the shape"):
            Listener(bundle, wav, RATE)
    for deaf in (Bundle(tiny_codec()), Bundle(tiny_codec(), tiny_model(LAYOUT))):
        with pytest.raises(ValueError, match="no model that writes down"):
            Listener(deaf, recording(0.1), RATE)
