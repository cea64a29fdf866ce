"""The talker: what is said aloud is what is written, whatever the backbone thinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2s.checkpoint import Bundle, load, save
from s2s.models.ahead import REPLY_STEPS
from s2s.models.step import DuplexState, DuplexStep, silence_codes
from s2s.models.talker import FAST, STOP_LOGIT, Talker
from s2s.nn.transformer import TransformerConfig
from s2s.streams import build_grid, model_inputs
from s2s.text import BpeTokenizer
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
    over = iter([-1, -1, 1, -1, -1, -1, 1, -1])
    monkeypatch.setattr(step.model.talker.stop, "forward", lambda hidden: torch.full((1, 1), STOP_LOGIT + next(over)))
    codes = said(step, monkeypatch, [3, None, None, None, 5, None, 6, None], 1)
    silent = [torch.equal(frame, silence) for frame in codes.T]
    assert silent == [False, False, True, True, False, False, False, False], (
        "a word is said, though it would rather stop"
    )


def test_live_it_is_what_was_trained() -> None:
    step = tiny_step(SMALL_SPEC, acoustic_delay=1, ahead=True, talker=True, talker_keeps_time=True)
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
        assert state.talker is not None and model.talker is not None
        assert model.talker.timing is not None
        torch.testing.assert_close(state.talker.out, model.talker.timing.out(whole[:, s])[:, 0])


def written(
    monkeypatch: pytest.MonkeyPatch, likes: float, due: list[float], reply: int = 99, shortest: int = 0
) -> list[bool]:
    """In which steps a word is written: what speaks for it by the backbone, by the talker in each step before, how
    many words the reply has, and how many steps each of them takes at least."""
    step = tiny_step(SMALL_SPEC, ahead=True, talker=True, talker_keeps_time=True)
    talker, text = step.model.talker, step.model.layout.stream("agent_text")
    assert talker is not None and talker.timing is not None and step.model.ahead is not None
    torch.nn.init.constant_(talker.stop.bias, -100.0)
    moods, said = iter(due), list[bool]()
    likings = torch.arange(text.table_size)[None]

    def next_word(hidden: Tensor) -> Tensor:
        return 1.0 * (likings == 4) + 2.0 * (likings == text.pad_id) * (sum(said) >= reply)

    torch.nn.init.zeros_(talker.timing.token.weight)
    talker.timing.shortest[4] = shortest
    monkeypatch.setattr(talker.timing.out, "forward", lambda voice: torch.full((1, 1), next(moods)))
    monkeypatch.setattr(step.model.text_heads["agent_text"], "forward", lambda hidden: likes * (likings != text.pad_id))
    monkeypatch.setattr(step.model.ahead, "forward", next_word)
    state, silence = step.init_state(1), torch.zeros(1, 1, step.step_size)
    for _ in due:
        said.append(int(step(silence, state, same_controls(1)).text["agent_text"]) == 4)
    return said


def test_within_a_reply_the_talker_keeps_time(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = written(monkeypatch, 3.0, [-9, -9, 1, -9, -9, 9, 9, -9])
    assert eager == [True, False, False, True, False, False, True, True], "no sooner and no later than it is due"
    assert written(monkeypatch, -9.0, [9] * 8) == [False] * 8, "when it begins is for the backbone to decide"


def test_a_word_that_would_have_come_by_now_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step was none of the likely ones: of three steps with a chance of four in ten it comes in the second."""
    found = written(monkeypatch, 3.0, [-9, -0.4, -0.4, -0.4, -9, -9])
    assert found == [True, False, False, True, False, False]


def test_a_word_waits_for_as_long_as_the_one_before_takes_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """However sure the talker is that it has that one out."""
    found = written(monkeypatch, 3.0, [9, 9, 9, -9, -9, -9, 9, 9, 9], shortest=3)
    assert found == [True, False, False, True, False, False, False, True, False], "and what was sure too early is over"


def test_how_long_words_take_at_least_is_measured() -> None:
    talker = tiny_model(ahead=True, talker=True, talker_keeps_time=True).talker
    assert talker is not None and talker.timing is not None
    talker.timing.measure(torch.tensor([4, 5, 4, 4]), torch.tensor([7, 2, 3, 5]))
    talker.timing.measure(torch.tensor([5, 6]), torch.tensor([6, 1]))
    assert talker.timing.shortest.nonzero()[:, 0].tolist() == [4, 5, 6]
    assert talker.timing.shortest[4:7].tolist() == [3, 2, 1]
    talker.timing.measure(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    assert talker.timing.shortest[4:7].tolist() == [3, 2, 1], "a batch in which nothing is said teaches nothing"


def test_a_talker_of_older_weights_knows_nothing_of_how_long_words_take(tmp_path: Path) -> None:
    step = tiny_step(SMALL_SPEC, ahead=True, talker=True, talker_keeps_time=True)
    save(Bundle(step.codec, step.model), tmp_path / "new")
    file = tmp_path / "new" / "model.safetensors"
    weights = load_file(file)
    assert weights.pop("talker.timing.shortest").shape == weights["talker.timing.joined"].shape
    save_file(weights, file)
    model = load(tmp_path / "new").model
    assert model is not None and model.talker is not None and model.talker.timing is not None
    assert not model.talker.timing.shortest.any()


def test_one_word_is_due_sooner_than_another() -> None:
    talker = tiny_model(ahead=True, talker=True, talker_keeps_time=True).talker
    assert talker is not None and talker.timing is not None
    torch.nn.init.zeros_(talker.timing.token.weight)
    talker.timing.token.weight.data[5] = 5 / FAST
    state = talker.init_state(2)
    state.out.fill_(-3.0)
    clock = talker.clock(state)
    assert clock is not None
    assert clock.due(torch.tensor([4, 5]), torch.tensor([True, True])).tolist() == [False, True]


def test_the_pieces_of_a_word_follow_each_other_at_once() -> None:
    tokenizer = BpeTokenizer.train(["to ship a parcel abroad, by tomorrow."] * 3, 300, ["handoff"])
    talker = Talker(TransformerConfig(16, 1, 2, 1, hidden=20, window=4), 24, 300)
    assert talker.timing is not None
    talker.timing.know(tokenizer)
    joined = [tokenizer.decode([token]) for token in talker.timing.joined.nonzero()[:, 0].tolist()]
    assert {".", ",", "s"} < set(joined) and not any(text.startswith(" ") for text in joined)
    assert not talker.timing.joined[tokenizer.actions["handoff"]]
    talker.timing.joined.copy_(torch.arange(300) == 5)
    state = talker.init_state(2)
    state.out.fill_(-5.0)
    clock = talker.clock(state)
    assert clock is not None
    assert clock.due(torch.tensor([4, 5]), torch.tensor([True, True])).tolist() == [False, True]


def test_a_reply_that_is_over_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(monkeypatch, 3.0, [-9, 9, -9, 9, 9, 9], reply=10) == [True, False, True, False, True, True]
    # From then on it is the backbone again that decides when another one begins.
    assert written(monkeypatch, 3.0, [-9, 9, -9, 9, 9, 9], reply=2) == [True, False, True, True, True, True]


def test_a_talker_that_has_no_opinion_for_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = written(monkeypatch, 3.0, [-99.0] * (REPLY_STEPS + 2))
    assert [at for at, says in enumerate(found) if says] == [0, REPLY_STEPS]


def test_only_a_talker_beside_a_look_ahead_keeps_time() -> None:
    assert tiny_model(talker=True).talker.timing is None  # type: ignore[union-attr]
    for settings in ({"talker": True}, {"ahead": True}):
        with pytest.raises(ValueError, match="talker_keeps_time is true, which needs a talker and ahead"):
            tiny_model(talker_keeps_time=True, **settings)


def test_a_talker_needs_words_with_times() -> None:
    config = tiny_model(talker=True).config
    texts = ("user_text", "agent_text")
    with pytest.raises(ValueError, match="a talker needs a stream 'agent_text' with times"):
        replace(config, unread=texts, untimed=texts)
