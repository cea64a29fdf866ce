"""How a talker is taught: words in another order keep their sound, and nothing but the talker learns."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.models.talker import Timing
from s2s.train.module import DuplexModule
from s2s.train.objective import DuplexTrainConfig
from s2s.train.talking import Lesson, durations, own_past, partly_hidden, shifted, spliced, timing_loss
from tests.tiny import SMALL_SPEC, random_tracks, tiny_layout, tiny_model

VOCAB, PAD = 9, 10


def words_with_their_sound() -> tuple[Tensor, Tensor]:
    """Tokens [2, 30], and codes [2, 3, 30] that say, a step later, which word they belong to and how old it is."""
    text, codes = torch.full((2, 30), PAD), torch.zeros(2, 3, 30, dtype=torch.long)
    flat = [(at, at % VOCAB) for at in range(0, 60, 5)]
    for number, (at, token) in enumerate(flat):
        text.view(-1)[at] = token
        for age in range(5):
            place = (at + 1 + age) % 60
            codes[place // 30, :, place % 30] = torch.tensor([token, age, number])
    return text, codes


def test_words_keep_their_sound_in_another_order() -> None:
    torch.manual_seed(1)
    text, codes = words_with_their_sound()
    marks = codes[:, 2].float()
    found = spliced(Lesson(text, codes.roll(1, -1), codes, marks[:, None], codes[:, 2] > 5), VOCAB)
    moved, sound = found.text, found.codes
    assert sorted(moved.flatten().tolist()) == sorted(text.flatten().tolist())
    assert not torch.equal(moved, text)
    flat, tokens = sound.transpose(0, 1).flatten(1), moved.flatten()
    said = (tokens < VOCAB).nonzero()[:, 0].tolist()
    assert len(said) == 12
    for at in said:
        for age in range(5):
            place = (at + 1 + age) % 60
            assert flat[0, place] == tokens[at] and flat[1, place] == age
    assert torch.equal(found.weight[:, 0], sound[:, 2].float()) and torch.equal(found.chosen, sound[:, 2] > 5)
    assert torch.equal(found.past[..., 1:], sound[..., :-1]), "the past is that of the new order"
    numbers = [int(flat[2, (at + 1) % 60]) for at in said]
    follows = sum((b - a) % 12 == 1 for a, b in pairwise(numbers))
    assert 0 < follows < 10, "some words still follow those that they did, others do not"


def test_rows_are_shifted_by_a_step() -> None:
    torch.manual_seed(0)
    text = torch.arange(5).expand(300, 5)
    found = {tuple(row) for row in shifted(text, 0.6, PAD).tolist()}
    assert found == {(0, 1, 2, 3, 4), (1, 2, 3, 4, PAD), (PAD, 0, 1, 2, 3)}
    assert torch.equal(shifted(text, 0.0, PAD), text)


def test_of_the_past_some_is_hidden() -> None:
    torch.manual_seed(0)
    codes = torch.randint(VOCAB, (40, 3, 200))
    found = partly_hidden(codes, 0.2, PAD)
    hidden = (found == PAD).all(dim=1)
    assert torch.equal(hidden, (found == PAD).any(dim=1)), "whole frames"
    assert 0.14 < hidden.float().mean() < 0.22
    assert torch.equal(found[(~hidden)[:, None].expand_as(found)], codes[(~hidden)[:, None].expand_as(codes)])
    assert torch.equal(partly_hidden(codes, 0.0, PAD), codes)


def test_the_next_word_is_asked_for_within_a_reply_alone() -> None:
    text = torch.full((1, 60), PAD)
    text[0, [20, 24, 30, 55]] = torch.tensor([3, 4, 5, 6])
    timing, voice = Timing(2, VOCAB), torch.zeros(1, 60, 2, requires_grad=True)
    torch.nn.init.ones_(timing.out.weight)

    def asked(valid: Tensor) -> Tensor:
        voice.grad = timing.token.weight.grad = None
        timing_loss(timing, voice, text, valid).backward()
        assert voice.grad is not None
        return voice.grad[0, :, 0]

    valid = torch.ones(1, 60, dtype=torch.bool)
    found = asked(valid)
    # From the first token on, each step says of the next one whether it has a token; the last is too far away.
    assert found.nonzero()[:, 0].tolist() == list(range(20, 30))
    assert (found < 0).nonzero()[:, 0].tolist() == [23, 29]
    assert timing.token.weight.grad is not None
    assert timing.token.weight.grad[:, 0].nonzero()[:, 0].tolist() == [4, 5], "by which token is to come, too"
    timing.joined[5] = 1
    assert asked(valid).nonzero()[:, 0].tolist() == list(range(20, 24)), "what goes on with a word comes at once"
    timing.joined[5] = 0
    valid[0, 22:] = False
    assert asked(valid).nonzero()[:, 0].tolist() == [20, 21]
    text = torch.full((1, 60), PAD)
    assert asked(valid).abs().max() == 0


def test_how_long_words_take_is_heard_within_a_reply_alone() -> None:
    text, valid = torch.full((2, 60), PAD), torch.ones(2, 60, dtype=torch.bool)
    text[0, [20, 24, 25, 31, 58]] = torch.tensor([3, 4, 5, 6, 7])
    text[1, [0, 2]] = torch.tensor([8, 8])
    timing = Timing(2, VOCAB)
    timing.joined[5] = 1

    def found() -> list[tuple[int, int]]:
        tokens, steps = durations(timing, text, valid)
        return list(zip(tokens.tolist(), steps.tolist(), strict=True))

    assert found() == [(3, 4), (5, 6), (8, 2)], "from the last token of a word to the next word"
    valid[1] = False
    assert found() == [(3, 4), (5, 6)], "where the agent is not heard nothing takes any time"


def test_when_a_word_is_due_is_learned() -> None:
    """Every fifth step has a word, and the sound tells how old it is."""
    learner, given = module(talker_only=True, spliced_share=0.0, shifted_share=0.0, timing_weight=1.0), batch()
    age = torch.arange(40) % 5
    given["agent_text"] = torch.where(age == 0, 4, tiny_layout(SMALL_SPEC).stream("agent_text").pad_id).expand(4, 1, 40)
    given["agent"] = age.expand(4, SMALL_SPEC.num_codebooks, 40).contiguous()
    trained = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], 1e-2)
    before = learner.eval().losses(given)["timing"]
    for _ in range(60):
        trained.zero_grad()
        learner.train().losses(given)["timing"].backward()
        trained.step()
    assert learner.eval().losses(given)["timing"] < 0.1 * before
    assert learner.model.talker is not None and learner.model.talker.timing is not None
    shortest = learner.model.talker.timing.shortest
    assert shortest.nonzero()[:, 0].tolist() == [4] and shortest[4] == 5


def module(**settings: object) -> DuplexModule:
    torch.manual_seed(0)
    layout = tiny_layout(SMALL_SPEC)
    return DuplexModule(
        DuplexTrainConfig(tiny_model(layout, ahead=True, talker=True, talker_keeps_time=True).config, **settings)
    )  # type: ignore[arg-type]


def batch(rows: int = 4, length: int = 40) -> dict[str, Tensor]:
    tracks = random_tracks(tiny_layout(SMALL_SPEC), rows, length)
    return tracks | {
        "agent_active": torch.ones(rows, length, dtype=torch.bool),
        "agent_stopped": torch.zeros(rows, length, dtype=torch.bool),
        "lengths": torch.full((rows,), length),
    }


def test_a_talker_alone_learns_its_sound_and_nothing_else_changes() -> None:
    learner, given = module(talker_only=True, spliced_share=0.0, speaking_share=1.0), batch()
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    trained = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], 1e-2)
    first = learner.eval().losses(given)
    assert first.keys() == {"agent_first", "agent_rest", "timing"}
    for _ in range(40):
        trained.zero_grad()
        torch.stack(list(learner.train().losses(given).values())).sum().backward()
        trained.step()
    assert learner.eval().losses(given)["agent_first"] < 0.7 * first["agent_first"]
    changed = {n.split(".")[0] for n, value in learner.model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"talker", "depth"}


def test_everything_but_the_voice_learns_where_audio_has_no_weight() -> None:
    learner, given = module(audio_weight=0.0), batch()
    given["agent_stopped"][1, 20:30] = True
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    trained = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], 1e-2)
    parts = learner.train().losses(given)
    assert not {"agent_first", "agent_rest", "timing"} & parts.keys()
    torch.stack(list(parts.values())).sum().backward()
    trained.step()
    changed = {n for n, value in learner.model.state_dict().items() if not torch.equal(value, before[n])}
    assert {name for name in changed if name.startswith(("talker", "depth", "embeddings.agent"))} == {
        "talker.stop.weight",
        "talker.stop.bias",
    }
    assert {"embeddings.user.codes.weight", "backbone.layers.0.mlp.down.weight", "ahead.weight"} <= changed


def test_where_it_breaks_off_is_learned_from_what_is_heard_and_not_from_the_sound() -> None:
    given = batch()
    given["agent_stopped"][1, 20:30] = True
    given["agent_active"][1, 20:30] = False
    other = given | {"agent": given["agent"].clone()}
    other["agent"][1, :, 20:30] = (other["agent"][1, :, 20:30] + 1) % SMALL_SPEC.codebook_size
    learner = module(talker_only=True, spliced_share=0.0).eval()
    one, two = learner.losses(given), learner.losses(other)
    assert one.keys() == {"agent_first", "agent_rest", "timing", "stop"}
    # The codes of the broken part are not asked for; those behind it see them.
    given["agent_stopped"][1, 20:], other["agent_stopped"][1, 20:] = True, True
    one, two = learner.losses(given), learner.losses(other)
    assert torch.equal(one["agent_first"], two["agent_first"])
    whole = module().eval().losses(given)
    assert whole["stop"] > 0
    trained = torch.optim.Adam(learner.parameters(), 3e-2)
    for _ in range(60):
        trained.zero_grad()
        learner.losses(given)["stop"].backward()
        trained.step()
    assert learner.losses(given)["stop"] < 0.5 * one["stop"]


def test_of_a_reply_that_was_an_error_only_its_end_is_learned() -> None:
    given = batch()
    given["agent_stopped"][1, 20:30] = True
    given["agent_erred"] = torch.zeros(4, 40, dtype=torch.bool)
    given["agent_erred"][:, 2:38] = True
    learner = module(stop_weight=1.0).eval()
    hidden = torch.randn(4, 40, learner.model.config.backbone.width)
    learner.model.forward = lambda *_, **__: hidden  # type: ignore[method-assign]  # whatever the agent's past is

    def losses(first: int, last: int, word: int) -> dict[str, Tensor]:
        text = given["agent_text"].clone()
        text[..., first:last] = word
        with torch.no_grad():
            return learner.losses(given | {"agent_text": text})

    for name in ("agent_text", "ahead"):
        assert torch.equal(losses(2, 38, 1)[name], losses(2, 38, 2)[name])
        assert not torch.equal(losses(38, 40, 1)[name], losses(38, 40, 2)[name])
    assert losses(2, 38, 1)["stop"] > 0


def test_a_past_of_its_own_is_what_it_said_a_step_before() -> None:
    said, past = torch.arange(12).view(1, 2, 6), -torch.arange(12).view(1, 2, 6)
    assert own_past(said, past).tolist() == [[[0, 0, 1, 2, 3, 4], [-6, 6, 7, 8, 9, 10]]]


def test_a_talker_is_taught_with_what_it_would_have_said() -> None:
    learner = module(talker_only=True, own_share=1.0, hidden_share=0.0, shifted_share=0.0, history_noise=0.0).train()
    size, codes = SMALL_SPEC.codebook_size, batch()["agent"]
    text = torch.full((4, 40), 3)
    lesson = Lesson(text, codes.roll(1, -1), codes, torch.ones(4, 3, 40), torch.ones(4, 40, dtype=torch.bool))
    favourites = torch.tensor([1, 4, 9])
    depth = learner.model.depth
    assert depth is not None
    depth.forward = lambda hidden, codes: F.one_hot(favourites, size).float().expand(len(hidden), -1, -1)  # type: ignore
    given = learner.sound.disturbed(lesson)
    own = (given.past == favourites[:, None]).all(dim=1)
    assert own[:, 1:].float().mean() > 0.3 and torch.equal(given.past[..., 0], lesson.past[..., 0])
    assert torch.equal(given.past.transpose(1, 2)[~own], lesson.past.transpose(1, 2)[~own])
    assert torch.equal(given.codes, lesson.codes), "what it is to say stays what was recorded"


def test_calls_are_never_spliced_unless_they_train() -> None:
    given = batch()
    learner = module(talker_only=True, spliced_share=1.0, hidden_share=0.9, shifted_share=1.0).eval()
    assert torch.equal(learner.losses(given)["agent_first"], learner.losses(given)["agent_first"])
    spread = {float(learner.train().losses(given)["agent_first"]) for _ in range(3)}
    assert len(spread) == 3


def test_something_has_to_be_left_to_train() -> None:
    with pytest.raises(ValueError, match="replies_only and talker_only leave nothing to train"):
        module(replies_only=True, talker_only=True)
    with pytest.raises(ValueError, match="talker_only with an audio_weight of 0"):
        module(talker_only=True, audio_weight=0.0)
    with pytest.raises(ValueError, match=r"talker_only needs model\.talker"):
        DuplexModule(DuplexTrainConfig(tiny_model(tiny_layout(SMALL_SPEC)).config, talker_only=True))
