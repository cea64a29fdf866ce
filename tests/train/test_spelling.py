"""Spelling: the loss counts letters of what was said, a head can learn them, and the layers above read them."""

from dataclasses import replace

import torch

from s2s.models.duplex import DuplexModel
from s2s.models.spelling import LETTERS, Spelling, spell, spelling_pieces
from s2s.text import BpeTokenizer, ByteTokenizer
from s2s.train.spelling import SpellingLoss, untimed_loss
from tests.tiny import tiny_layout, tiny_model


def ids_of(text, steps):
    ids = torch.full((1, steps), 300)
    letters = torch.tensor(ByteTokenizer().encode(text))
    ids[0, 3 : 3 + 2 * len(letters) : 2] = letters
    return ids


def test_letters_are_learned_without_times():
    loss, head = SpellingLoss(ByteTokenizer(), LETTERS), Spelling(16, len(LETTERS) + 1)
    hidden = torch.randn(1, 30, 16, requires_grad=True)
    ids, lengths = ids_of("Hi You", 30), torch.tensor([30])
    optimizer = torch.optim.Adam([*head.parameters(), hidden], 0.05)
    first = loss(head.logits(hidden), ids, lengths)
    for _ in range(150):
        optimizer.zero_grad()
        loss(head.logits(hidden), ids, lengths).backward()
        optimizer.step()
    assert loss(head.logits(hidden), ids, lengths) < 0.2 * first
    best = head.logits(hidden)[0].argmax(dim=-1).unique_consecutive()
    assert "".join(LETTERS[i - 1] for i in best if i) == "hi you"


def test_nothing_said_and_too_little_room_cost_nothing_infinite():
    loss, letters = SpellingLoss(ByteTokenizer(), LETTERS), len(LETTERS) + 1
    silent = torch.full((1, 10), 300)
    assert loss(torch.randn(1, 10, letters), silent, torch.tensor([10])) >= 0
    crowded = ids_of("aaaaaaaa", 20)
    assert torch.isfinite(loss(torch.randn(1, 20, letters), crowded, torch.tensor([4])))


def test_steps_behind_the_end_do_not_count():
    loss = SpellingLoss(ByteTokenizer(), LETTERS)
    ids, lengths = ids_of("ok", 30), torch.tensor([20])
    logits = torch.randn(1, 30, len(LETTERS) + 1)
    before = loss(logits, ids, lengths)
    logits[:, 20:] = 100.0
    assert torch.equal(loss(logits, ids, lengths), before)


def test_the_layers_above_begin_without_the_letters_and_learn_to_read_them():
    head, hidden = Spelling(16, len(LETTERS) + 1), torch.randn(2, 5, 16)
    assert torch.equal(head(hidden), hidden)
    head(hidden).square().sum().backward()
    assert head.back.weight.grad.abs().sum() > 0


def test_tokens_are_learned_without_times_also_where_one_comes_twice():
    head, pad = Spelling(16, 12), 11
    hidden = torch.randn(2, 20, 16, requires_grad=True)
    targets, lengths = torch.tensor([[4, pad, 4, 7], [pad] * 4]), torch.tensor([20, 15])
    optimizer = torch.optim.Adam([*head.parameters(), hidden], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = untimed_loss(head.logits(hidden), targets, targets != pad, lengths, blank=pad)
        loss.backward()
        optimizer.step()
    best = head.logits(hidden).argmax(dim=-1)
    assert [i for i in best[0].unique_consecutive().tolist() if i != pad] == [4, 4, 7]
    assert (best[1, :15] == pad).all()


def test_pieces_are_the_letters_and_the_shortest_tokens():
    assert spelling_pieces(ByteTokenizer()) == tuple(LETTERS)
    tokenizer = BpeTokenizer.train(["The parcel is there, is it not? What number"] * 5, 290)
    pieces = spelling_pieces(tokenizer)
    assert pieces[: len(LETTERS)] == tuple(LETTERS) and " is" in pieces and "the" in pieces
    assert all(len(piece) <= 3 for piece in pieces)
    assert [pieces[i] for i in spell("It's the... parcel, Is it? 9", pieces)].count(" is") == 1
    for text in (" where is the parcel", "o'clock", ""):
        assert "".join(pieces[i] for i in spell(text, pieces)) == text
    assert len(spell(" is there", pieces)) < len(spell(" is there", LETTERS)) == 9


def test_a_loss_in_pieces_counts_them_token_by_token():
    tokenizer = BpeTokenizer.train(["The parcel is there, is it not?"] * 5, 290)
    pieces = spelling_pieces(tokenizer)
    ids, text = torch.full((1, 30), 1000), tokenizer.encode(" Is it there?")
    ids[0, 2 : 2 + len(text)] = torch.tensor(text)
    loss, lengths = SpellingLoss(tokenizer, pieces), torch.tensor([30])
    target = [1 + i for token in text for i in spell(tokenizer.decode([token]), pieces)]
    right = torch.full((1, 30, len(pieces) + 1), -20.0)
    right[0, :, 0] = 0.0
    for step, each in enumerate(target):
        right[0, 2 * step, each] = 20.0
    assert loss(right, ids, lengths) < 0.1
    assert loss(right.flip(1), ids, lengths) > 1


def test_what_is_heard_is_added_as_loud_as_half_of_what_it_is_added_to():
    head, pad = Spelling(16, 12), 11
    head.read_as(torch.randn(12, 16), pad)
    hidden = torch.randn(2, 5, 16) * torch.tensor([1.0, 100.0])[:, None, None]
    given = torch.tensor([[3, pad, 4, 5, 6]] * 2)
    added = head(hidden, given) - hidden
    assert not added[:, 1].any(), "a blank adds nothing"
    torch.testing.assert_close(added.norm(dim=-1)[:, 2:], 0.5 * hidden.norm(dim=-1)[:, 2:])
    assert torch.equal(head(hidden, torch.full((2, 5), -1)), head(hidden)), "nothing is given in negative rows"


def test_the_text_head_can_read_at_once_what_an_inner_layer_is_given():
    config = replace(tiny_model(tiny_layout()).config, wording_layer=2)
    model = DuplexModel(config).eval()
    stream = config.layout.stream("user_text")
    grid = torch.full((1, config.layout.num_rows, 4), 1)
    given = torch.tensor([[2, 5, 7, stream.pad_id]])
    with torch.no_grad():
        logits = model.text_logits(model(grid, read=given))["user_text"] - model.text_logits(model(grid))["user_text"]
    assert logits[0, :3].argmax(dim=-1).tolist() == [2, 5, 7]
