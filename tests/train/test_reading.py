"""Rows that are read: who meant what is learned from words, with digits that nobody has said before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from s2s.models.duplex import DuplexModel
from s2s.phrases import DIGIT_WORDS
from s2s.streams import Stream, dialogue_layout
from s2s.text import BpeTokenizer, ByteTokenizer
from s2s.train.module import DuplexModule
from s2s.train.objective import DuplexTrainConfig
from s2s.train.reading import Reading, ReadRows
from tests.tiny import tiny_model

TOKENIZER = BpeTokenizer.train([" " + " ".join(DIGIT_WORDS), " ".join(reversed(DIGIT_WORDS)), *DIGIT_WORDS] * 20, 360)
VOCAB = TOKENIZER.vocab_size
LAYOUT = dialogue_layout(2, 16, VOCAB)
STREAM: Stream = LAYOUT.stream("user_text")


def track(*texts: str, steps: int = 60) -> Tensor:
    """Texts as tracks [B, S], a token every other step."""
    rows = torch.full((len(texts), steps), STREAM.pad_id)
    for row, text in zip(rows, texts, strict=True):
        ids = TOKENIZER.encode(text)
        row[5 : 5 + 2 * len(ids) : 2] = torch.tensor(ids)
    return rows


def text_of(ids: Tensor) -> str:
    return TOKENIZER.decode([i for i in ids.tolist() if 0 <= i < VOCAB])


def draw(reading: Reading, user: Tensor, agent: Tensor) -> ReadRows:
    heard = torch.zeros(len(user), dtype=torch.bool)
    return reading.draw(user, agent, heard, heard)


def test_digits_read_back_are_exchanged_on_both_sides_alike() -> None:
    torch.manual_seed(0)
    reading = Reading(TOKENIZER, STREAM, share=1.0)
    assert len(reading.tokens) >= 1, "the test needs digits of one token each"
    user, agent = " it is four two four nine", " I have four two four nine"
    numbers = set()
    for _ in range(40):
        read = draw(reading, track(user), track(agent))
        said = [text_of(text[0]).split()[-4:] for text in (read.user_text, read.agent_text)]
        assert said[0] == said[1] and said[0][0] == said[0][2] != said[0][1], "which digits are the same stays"
        assert set(said[0]) <= set(DIGIT_WORDS)
        assert text_of(read.user_text[0]).startswith(" it is") and text_of(read.agent_text[0]).startswith(" I have")
        assert bool(read.unspoken[0]) or said[0] == user.split()[-4:]
        numbers.add(" ".join(said[0]))
    assert len(numbers) > 15


@pytest.mark.parametrize("agent", [" we are open from eight to six", " I have four two nine four", " hello"])
def test_other_digits_are_left_alone(agent: str) -> None:
    reading = Reading(TOKENIZER, STREAM, share=1.0)
    for _ in range(20):
        read = draw(reading, track(" four two four nine"), track(agent))
        assert not read.unspoken.any()
        assert torch.equal(read.agent_text, track(agent)) and torch.equal(read.user_text, track(" four two four nine"))


def test_digits_are_left_alone_where_the_caller_answers_what_was_read_back() -> None:
    reading = Reading(TOKENIZER, STREAM, share=1.0)
    user, agent = track(" four two four nine", steps=90), track(" I have four two four nine", steps=90)
    exchanged = [bool(draw(reading, user, agent).unspoken[0]) for _ in range(20)]
    assert any(exchanged)
    user[0, 80] = TOKENIZER.encode(" hello")[0]
    assert not any(bool(draw(reading, user, agent).unspoken[0]) for _ in range(20))


def test_a_tokenizer_of_bytes_exchanges_nothing() -> None:
    reading = Reading(ByteTokenizer(), dialogue_layout(2, 16, 256).stream("user_text"), share=1.0)
    assert not draw(reading, track(" one two three"), track(" one two three")).unspoken.any()


def test_what_is_given_is_the_words_as_soon_as_they_would_be_heard_with_some_left_out() -> None:
    torch.manual_seed(1)
    reading = Reading(TOKENIZER, STREAM, share=0.5)
    words = track(*[" one two three four five six seven"] * 400)
    read = draw(reading, words, words)
    assert 0.4 < read.rows.float().mean() < 0.6
    given = reading.given(read.user_text, read)
    assert ((given == -1) == ~read.rows[:, None]).all()
    certain = read.unspoken
    late = {int((row < VOCAB).nonzero()[0]) - 5 for row in given[certain]}
    assert late == {-4, -3, -2, -1}
    assert all(text_of(row) == text_of(words_) for row, words_ in zip(given[certain], read.user_text[certain]))
    rest = [text_of(row) for row in given[read.rows & ~certain]]
    assert 0.2 < sum(text == text_of(words[0]) for text in rest) / len(rest) < 0.8


def test_written_rows_are_always_read_and_nothing_of_them_is_exchanged() -> None:
    torch.manual_seed(2)
    reading = Reading(TOKENIZER, STREAM, share=0.5)
    words = track(*[" a b c one two three four"] * 200)
    written = torch.arange(200) % 2 == 0
    read = reading.draw(words, words, written, written)
    assert read.rows[written].all() and read.unspoken[written].all()
    assert torch.equal(read.user_text[written], words[written])
    assert 0.3 < read.rows[~written].float().mean() < 0.7
    given = [text_of(row) for row in reading.given(words, read)[written]]
    assert all(text.endswith(" one two three four") for text in given), "what has to be copied is there"
    assert len({text.removesuffix(" one two three four") for text in given}) > 5
    certain = reading.draw(words, words, written, written, training=False)
    assert torch.equal(certain.rows, written) and torch.equal(certain.user_text, words)


def test_where_the_model_reads_the_sound_of_the_caller_changes_nothing() -> None:
    config = replace(tiny_model(LAYOUT).config, wording_layer=1)
    model = DuplexModel(config).eval()
    torch.nn.init.normal_(model.wording.back.weight)  # type: ignore[union-attr]
    grid = torch.randint(10, (2, LAYOUT.num_rows, 9))
    read = torch.stack([torch.full((9,), -1), torch.full((9,), 5)])
    heard, given = model(grid), model(grid, read=read)
    assert torch.equal(heard[0], given[0]) and not torch.equal(heard[1], given[1])
    read[1, 4] = 6
    changed = (model(grid, read=read) != given).any(dim=-1)
    assert not changed[0].any() and changed[1].tolist() == [False] * 4 + [True] * 5


def losses(share: float, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    config = replace(tiny_model(LAYOUT).config, wording_layer=1, unread=("user_text",), untimed=("user_text",))
    module = DuplexModule(DuplexTrainConfig(config, read_share=share, masked_share=0.0, level_dropout=0.0), TOKENIZER)
    return module.train().losses(batch)


def test_rows_that_are_read_teach_nothing_about_sounds() -> None:
    words = track(*[" one two three"] * 4)
    batch = {"user": torch.randint(16, (4, 2, 60)), "agent": torch.randint(16, (4, 2, 60)),
             "user_text": words[:, None], "agent_text": words[:, None],
             "agent_active": torch.ones(4, 60, dtype=torch.bool), "lengths": torch.full((4,), 60)}  # fmt: skip
    other = batch | {"user": torch.randint(16, (4, 2, 60))}
    heard, read = losses(0.0, batch), losses(1.0, batch)
    assert heard["wording"] > 1 and read["user_text"] > 0 and read["agent_text"] > 0
    assert all(torch.equal(read[name], value) for name, value in losses(1.0, other).items())
    assert not torch.equal(losses(0.0, other)["wording"], heard["wording"])


def test_written_rows_count_wherever_a_model_can_read() -> None:
    words = track(*[" one two three"] * 4)
    active = torch.ones(4, 60, dtype=torch.bool)
    batch = {"user": torch.full((4, 2, 60), 17), "agent": torch.full((4, 2, 60), 17), "user_text": words[:, None],
             "agent_text": words[:, None], "agent_active": active, "lengths": torch.full((4,), 60)}  # fmt: skip
    found = losses(0.0, batch)
    assert found["agent_first"] == found["agent_rest"] == 0
    assert found["user_text"] > 0 and found["agent_text"] > 0
    # A model that reads them can tell them apart; one that only heard their silence could not.
    other = losses(0.0, batch | {"user_text": track(*[" three one two"] * 4)[:, None]})
    assert found["agent_text"] != other["agent_text"]


def test_where_only_the_caller_is_written_the_voice_is_learned() -> None:
    words = track(*[" one two three"] * 4)
    active = torch.ones(4, 60, dtype=torch.bool)
    batch = {"user": torch.full((4, 2, 60), 17), "agent": torch.randint(16, (4, 2, 60)), "user_text": words[:, None],
             "agent_text": words[:, None], "agent_active": active, "lengths": torch.full((4,), 60)}  # fmt: skip
    found, other = losses(0.0, batch), losses(0.0, batch | {"agent": torch.randint(16, (4, 2, 60))})
    assert found["agent_first"] > 0 and found["agent_first"] != other["agent_first"]


def test_reading_needs_a_layer_to_read_behind() -> None:
    with pytest.raises(ValueError, match=r"read_share needs model\.wording_layer"):
        DuplexModule(DuplexTrainConfig(tiny_model(LAYOUT).config, read_share=0.1), TOKENIZER)


def test_replies_only_leaves_hearing_and_speaking_as_they_are() -> None:
    torch.manual_seed(0)
    config = replace(tiny_model(LAYOUT).config, wording_layer=1)
    module = DuplexModule(DuplexTrainConfig(config, replies_only=True), TOKENIZER)
    words = track(*[" one two three"] * 4)[:, None]
    silent = torch.full((4, 2, 60), 17)
    batch = {"user": silent, "agent": silent, "user_text": words, "agent_text": words,
             "agent_active": torch.ones(4, 60, dtype=torch.bool), "lengths": torch.full((4,), 60)}  # fmt: skip
    parts = module.losses(batch)
    assert set(parts) == {"agent_text"}
    parts["agent_text"].backward()
    learned = {name for name, p in module.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    behind = ("backbone.layers.1.", "backbone.norm", "wording.back", "text_heads.agent_text")
    assert learned and all(name.startswith(behind) for name in learned)
    assert {name for name, _ in module.model.named_parameters() if name.startswith(behind)} <= learned
    trained = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.parameters() if p.requires_grad}
    with pytest.raises(ValueError, match=r"replies_only needs model\.wording_layer"):
        DuplexModule(DuplexTrainConfig(tiny_model(LAYOUT).config, replies_only=True), TOKENIZER)
