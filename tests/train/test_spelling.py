"""Spelling: the loss counts letters of what was said, a head can learn them, and the layers above read them."""

import torch

from s2s.models.spelling import LETTERS, Spelling
from s2s.text import ByteTokenizer
from s2s.train.spelling import SpellingLoss, untimed_loss


def ids_of(text, steps):
    ids = torch.full((1, steps), 300)
    letters = torch.tensor(ByteTokenizer().encode(text))
    ids[0, 3 : 3 + 2 * len(letters) : 2] = letters
    return ids


def test_letters_are_learned_without_times():
    loss, head = SpellingLoss(ByteTokenizer()), Spelling(16, len(LETTERS) + 1)
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
    loss, letters = SpellingLoss(ByteTokenizer()), len(LETTERS) + 1
    silent = torch.full((1, 10), 300)
    assert loss(torch.randn(1, 10, letters), silent, torch.tensor([10])) >= 0
    crowded = ids_of("aaaaaaaa", 20)
    assert torch.isfinite(loss(torch.randn(1, 20, letters), crowded, torch.tensor([4])))


def test_steps_behind_the_end_do_not_count():
    loss = SpellingLoss(ByteTokenizer())
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
    targets, lengths = [torch.tensor([4, 4, 7]), torch.tensor([], dtype=torch.long)], torch.tensor([20, 15])
    optimizer = torch.optim.Adam([*head.parameters(), hidden], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = untimed_loss(head.logits(hidden), targets, lengths, blank=pad)
        loss.backward()
        optimizer.step()
    best = head.logits(hidden).argmax(dim=-1)
    assert [i for i in best[0].unique_consecutive().tolist() if i != pad] == [4, 4, 7]
    assert (best[1, :15] == pad).all()
