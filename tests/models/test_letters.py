"""The letters that a model hears, step by step."""

from __future__ import annotations

import pytest
import torch

from s2s.models.letters import LETTER_STREAM, SpellingStep, spelled
from s2s.models.spelling import LETTERS
from s2s.models.step import DuplexStep
from s2s.models.traced import TracedStep
from tests.tiny import SMALL_SPEC, same_controls, tiny_codec, tiny_layout, tiny_model

LAYOUT = tiny_layout(SMALL_SPEC)


def test_a_step_that_spells_is_the_step_with_letters() -> None:
    codec, model = tiny_codec(SMALL_SPEC), tiny_model(LAYOUT, spelling_layer=1)
    plain, spelling = DuplexStep(codec, model), SpellingStep(codec, model)
    traced = TracedStep(spelling)
    states = [step.init_state(2) for step in (plain, spelling, traced)]
    classes = set()
    for _ in range(20):
        wav = torch.randn(2, 1, SMALL_SPEC.frame_size)
        expected, out, graph = (
            step(wav, state, same_controls(2)) for step, state in zip((plain, spelling, traced), states, strict=True)
        )
        assert torch.equal(expected.wav, out.wav) and torch.equal(out.wav, graph.wav)
        letters = out.text.pop(LETTER_STREAM)
        assert torch.equal(letters, graph.text.pop(LETTER_STREAM))
        assert all(torch.equal(ids, out.text[name]) for name, ids in expected.text.items())
        classes |= set(letters.tolist())
    assert len(classes) > 3 and classes <= set(range(len(LETTERS) + 1))
    assert not model.spelling._forward_pre_hooks, "nothing is left behind"


def test_a_model_that_does_not_spell_is_refused() -> None:
    with pytest.raises(ValueError, match="does not spell"):
        SpellingStep(tiny_codec(SMALL_SPEC), tiny_model(LAYOUT))


def test_repetitions_count_once_and_blanks_part_them() -> None:
    def classes(text: str) -> list[int]:
        return [0 if letter == "_" else LETTERS.index(letter) + 1 for letter in text]

    assert spelled(classes("__hhe_l_lloo_  _yy_ou__ ")) == "hello you"
    assert spelled([]) == spelled([0, 0]) == ""
