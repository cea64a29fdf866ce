"""A text in, a voice out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from s2s.checkpoint import Bundle, Defaults
from s2s.evaluation.speak import SpeakConfig, speak
from s2s.models.dictated import MAX_TOKENS
from s2s.streams import dialogue_layout
from s2s.text import ByteTokenizer
from tests.tiny import SPEC, tiny_codec, tiny_model

LAYOUT = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, 256)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(tiny_codec(), tiny_model(LAYOUT), ByteTokenizer(), Defaults(speed="exact"))


def test_the_words_are_said_in_order(bundle: Bundle) -> None:
    said = speak(bundle, "  a café,\n now ", SpeakConfig(seed=3))
    assert [word.text for word in said.words] == ["a", "café,", "now"]
    starts = [word.start_s for word in said.words]
    assert starts == sorted(starts) and starts[-1] < len(said.agent) / said.sample_rate
    assert len(said.agent) == (len(said.step_s) + 1) * SPEC.frame_size and said.agent.any()
    assert not said.agent[: SPEC.frame_size].any(), "what a step says is heard one frame later"
    assert said.to_json()["text"] == "a café, now"
    again = speak(bundle, "a café, now", SpeakConfig(seed=3))
    assert np.array_equal(said.agent, again.agent)


def test_it_has_an_end(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    said = speak(bundle, "a")  # random weights are never quiet
    words = round(said.words[0].start_s * 25)
    assert len(said.step_s) <= words + 2 + 8 * 25
    monkeypatch.setattr("s2s.evaluation.speak.is_quiet", lambda wav: True)
    assert len(speak(bundle, "a").step_s) < len(said.step_s) - 150


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no words"), (" \n", "no words"), ("a\ud800", "no character"), ("a" * MAX_TOKENS, "tokens, allowed are")],
)
def test_what_cannot_be_said_is_an_error(bundle: Bundle, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        speak(bundle, text)


def test_a_checkpoint_that_says_no_text_is_an_error(bundle: Bundle) -> None:
    for dumb in (Bundle(tiny_codec()), replace(bundle, tokenizer=None)):
        with pytest.raises(ValueError, match="no model that says a text"):
            speak(dumb, "hello")
