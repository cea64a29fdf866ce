"""Spelling: the loss counts letters of what was said, and a layer can learn them."""

import torch

from s2s.text import ByteTokenizer
from s2s.train.spelling import LETTERS, Spelling


def ids_of(text, steps):
    ids = torch.full((1, steps), 300)
    letters = torch.tensor(ByteTokenizer().encode(text))
    ids[0, 3 : 3 + 2 * len(letters) : 2] = letters
    return ids


def test_letters_are_learned_without_times():
    tokenizer = ByteTokenizer()
    spelling = Spelling(16, tokenizer)
    hidden = torch.randn(1, 30, 16, requires_grad=True)
    ids, lengths = ids_of("Hi You", 30), torch.tensor([30])
    optimizer = torch.optim.Adam([*spelling.parameters(), hidden], 0.05)
    first = spelling(hidden, ids, lengths)
    for _ in range(150):
        optimizer.zero_grad()
        spelling(hidden, ids, lengths).backward()
        optimizer.step()
    assert spelling(hidden, ids, lengths) < 0.2 * first
    best = spelling.head(spelling.norm(hidden))[0].argmax(dim=-1).unique_consecutive()
    assert "".join(LETTERS[i - 1] for i in best if i) == "hi you"


def test_nothing_said_and_too_little_room_cost_nothing_infinite():
    spelling = Spelling(16, ByteTokenizer())
    silent = torch.full((1, 10), 300)
    assert spelling(torch.randn(1, 10, 16), silent, torch.tensor([10])) >= 0
    crowded = ids_of("aaaaaaaa", 20)
    assert torch.isfinite(spelling(torch.randn(1, 20, 16), crowded, torch.tensor([4])))


def test_steps_behind_the_end_do_not_count():
    spelling = Spelling(16, ByteTokenizer())
    ids, lengths = ids_of("ok", 30), torch.tensor([20])
    hidden = torch.randn(1, 30, 16)
    before = spelling(hidden, ids, lengths)
    hidden[:, 20:] = 100.0
    assert torch.equal(spelling(hidden, ids, lengths), before)
