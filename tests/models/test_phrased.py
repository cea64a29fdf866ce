"""The agent writes given phrases: whole ones, begun when the model likes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from s2s.models.phrased import RESTART_STEPS, PhrasedState, PhrasedStep
from s2s.models.traced import TracedStep
from s2s.phrases import Graph
from tests.streaming_cases import some_phrases
from tests.tiny import SMALL_SPEC, same_controls, tiny_codec, tiny_layout, tiny_model

LAYOUT = tiny_layout(SMALL_SPEC)
STREAM = LAYOUT.stream("agent_text")
PAD = STREAM.pad_id
PHRASES = ([3, 1, 4], [3, 2], [7])


def phrased_step(wishes: list[dict[int, float]] | None = None) -> PhrasedStep:
    """Args: wishes: of each step, what the model's head says of some tokens; 0 of all others, and of PAD 1."""
    step = PhrasedStep(tiny_codec(SMALL_SPEC), tiny_model(LAYOUT), some_phrases())
    if wishes is not None:
        left = iter(wishes)

        def wish(module: torch.nn.Module, inputs: object, logits: Tensor) -> Tensor:
            made = torch.zeros_like(logits)
            made[:, PAD] = 1.0
            for token, value in next(left, {}).items():
                made[:, token] = value
            return made

        step.model.text_heads["agent_text"].register_forward_hook(wish)
    return step


def say(step: PhrasedStep | TracedStep, rows: int, steps: int, temperature: float = 0.0) -> tuple[Tensor, PhrasedState]:
    state = step.init_state(rows)
    assert isinstance(state, PhrasedState)
    torch.manual_seed(0)
    wav = 0.1 * torch.randn(steps, rows, 1, step.step_size)
    outs = [step(frame, state, same_controls(rows, temperature)).text["agent_text"] for frame in wav]
    return torch.stack(outs, dim=1), state


def said(ids: Tensor) -> list[int]:
    return [token for token in ids.tolist() if token < STREAM.vocab_size]


def test_inside_a_phrase_another_wish_goes_on_with_it() -> None:
    ids, _ = say(phrased_step([{3: 2.0}, {}, {9: 2.0, 2: 0.5}]), 1, 4)
    assert ids[0].tolist() == [3, PAD, 2, PAD], "the token is one of the phrase's, its time is the model's"


def test_a_token_that_was_left_out_is_made_up_for() -> None:
    ids, state = say(phrased_step([{3: 2.0}, {4: 2.0}, {}, {}]), 1, 4)
    assert ids[0].tolist() == [3, 1, 4, PAD], "4 comes a step after the model has wanted it, behind 1"
    assert state.owed.tolist() == [0]
    ids, _ = say(phrased_step([{3: 2.0}, {4: 2.0}, {9: 3.0}, {}]), 1, 4)
    assert ids[0].tolist() == [3, 1, 4, PAD]


def test_before_a_phrase_another_wish_is_silence() -> None:
    ids, _ = say(phrased_step([{9: 2.0}, {9: 2.0, 7: 1.5}, {9: 3.0}, {}]), 1, 4)
    assert ids[0].tolist() == [PAD, 7, PAD, PAD]


def test_phrases_that_begin_alike_are_told_apart_when_they_have_to_be() -> None:
    ids, _ = say(phrased_step([{3: 2.0}, {1: 2.0, 2: 1.5}, {3: 2.0}, {7: 2.0}]), 1, 4)
    assert ids[0].tolist() == [3, 1, 4, 7], "3 cannot follow 1, so 4 does; behind a whole phrase another begins"


def test_a_phrase_that_was_broken_off_can_be_left() -> None:
    pause: list[dict[int, float]] = [{} for _ in range(RESTART_STEPS - 2)]
    early, _ = say(phrased_step([{3: 2.0}, *pause, {7: 2.0, 1: 0.5}]), 1, RESTART_STEPS)
    late, _ = say(phrased_step([{3: 2.0}, *pause, {}, {}, {7: 2.0, 1: 0.5}]), 1, RESTART_STEPS + 2)
    assert said(early[0]) == [3, 1] and said(late[0]) == [3, 7]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_whatever_the_model_likes_whole_phrases_come(temperature: float) -> None:
    step = phrased_step()
    head = step.model.text_heads["agent_text"]
    head.register_forward_hook(lambda module, inputs, logits: logits - 3.0 * (torch.arange(logits.shape[-1]) == PAD))
    ids, _ = say(step, 4, 60, temperature)
    for row in ids:
        tokens = said(row)
        assert len(tokens) > 8
        while tokens:
            phrase = next((p for p in PHRASES if tokens[: len(p)] == p[: len(tokens)]), None)
            assert phrase is not None, f"{tokens} begin with no phrase"
            tokens = tokens[len(phrase) :]


def test_the_graph_gives_what_the_step_gives() -> None:
    ids, state = say(phrased_step(), 2, 30)
    traced, other = say(TracedStep(phrased_step()), 2, 30)
    assert torch.equal(ids, traced) and torch.equal(state.moved, other.moved) and torch.equal(state.idle, other.idle)


def test_tokens_beyond_the_stream_are_named() -> None:
    made = Graph()
    made.add(0, [[STREAM.vocab_size]])
    with pytest.raises(ValueError, match="tokens beyond the"):
        PhrasedStep(tiny_codec(SMALL_SPEC), tiny_model(LAYOUT), made)
