"""The talker: what is said aloud is what is written, whatever the backbone thinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from s2s.models.step import DuplexState, DuplexStep, silence_codes
from s2s.streams import build_grid, model_inputs
from tests.tiny import SMALL_SPEC, random_tracks, same_controls, tiny_layout, tiny_model, tiny_step

STEPS = 14


def said(step: DuplexStep, monkeypatch: pytest.MonkeyPatch, words: Sequence[int | None], seed: int) -> Tensor:
    """The codes [K, S] of an agent that writes these tokens (None: nothing) while it hears noise."""
    text, codes = step.model.layout.stream("agent_text"), list[Tensor]()
    generator = torch.Generator().manual_seed(seed)
    tokens = iter(words)

    def written(*args: object) -> dict[str, Tensor]:
        token = next(tokens)
        pad = torch.full((1, 1), step.model.layout.stream("user_text").pad_id)
        return {"user_text": pad, "agent_text": torch.full((1, 1), text.pad_id if token is None else token)}

    def spoken(frame: Tensor, state: DuplexState) -> Tensor:
        codes.append(frame[0])
        return torch.zeros(1, 1, step.step_size)

    monkeypatch.setattr(step, "say_text", written)
    monkeypatch.setattr(step, "speak", spoken)
    state = step.init_state(1)
    for _ in words:
        step(torch.randn(1, 1, step.step_size, generator=generator), state, same_controls(1))
    return torch.stack(codes, dim=1)


@pytest.mark.parametrize("talker", [True, False])
def test_only_words_and_its_own_past_make_the_sound(talker: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tiny_step(SMALL_SPEC, talker=talker)
    if step.model.talker is not None:
        torch.nn.init.constant_(step.model.talker.stop.bias, -100.0)
    words = [3, None, 5, 1, None, None, 7] * 2
    one, two = (said(step, monkeypatch, words, seed) for seed in (1, 2))
    assert torch.equal(one, two) == talker, "without a talker the sound follows what was heard"
    other = said(step, monkeypatch, [8, *words[1:]], 1)
    assert not torch.equal(one, other)


def test_a_frame_follows_the_word_of_its_own_step() -> None:
    model = tiny_model(tiny_layout(SMALL_SPEC), talker=True)
    text, codes = torch.randint(9, (1, STEPS)), torch.randint(9, (1, SMALL_SPEC.num_codebooks, STEPS))
    other = text.clone()
    other[0, 6] += 1
    changed = (model.talk(text, codes) != model.talk(other, codes)).any(dim=-1)[0]
    assert changed.tolist() == [6 <= step < 6 + 4 for step in range(STEPS)]  # as far as the window reaches


def test_it_breaks_off_until_the_next_word(monkeypatch: pytest.MonkeyPatch) -> None:
    step = tiny_step(SMALL_SPEC, talker=True)
    assert step.model.talker is not None
    silence = silence_codes(step.codec)
    stops = iter([-2, -2, 1, -2, -2, -2, 1, -2])
    monkeypatch.setattr(step.model.talker.stop, "forward", lambda hidden: torch.full((1, 1), float(next(stops))))
    codes = said(step, monkeypatch, [3, None, None, None, 5, None, 6, None], 1)
    silent = [torch.equal(frame, silence) for frame in codes.T]
    assert silent == [False, False, True, True, False, False, False, False], (
        "a word is said, though it would rather stop"
    )


def test_live_it_is_what_was_trained() -> None:
    step = tiny_step(SMALL_SPEC, acoustic_delay=1, talker=True)
    model, layout = step.model, step.model.layout
    tracks = random_tracks(layout, 2, STEPS)
    grid, _ = build_grid(layout, tracks)
    inputs, row = model_inputs(layout, grid, None), layout.rows("agent_text").start
    whole = model.talk(grid[:, row], inputs[:, layout.rows("agent")])
    state = step.init_state(2)
    for s in range(STEPS):
        text = {"agent_text": grid[:, row, s : s + 1]}
        voice = step.voice(inputs[..., s], torch.zeros(2, model.config.backbone.width), text, state)
        torch.testing.assert_close(voice, whole[:, s])


def test_a_talker_needs_words_with_times() -> None:
    config = tiny_model(talker=True).config
    texts = ("user_text", "agent_text")
    with pytest.raises(ValueError, match="a talker needs a stream 'agent_text' with times"):
        replace(config, unread=texts, untimed=texts)
