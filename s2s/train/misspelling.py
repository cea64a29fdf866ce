"""How words come out when they are misheard: "siz" for "size", "were house" for "warehouse".

Who hears a word that was seldom heard before writes down most of its sounds and misses some of them. A person who reads
that still knows what was meant; a model has to have seen it.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from s2s.text import Tokenizer

VARIANTS = 32  # ways to misspell a token
PIECES = 3  # tokens that one token may become
SHORTEST = 3  # letters that a token needs so that its beginning or end still tells something of it
_VOWELS, _CONSONANTS = "aeiouy", "bcdfghjklmnpqrstvwxz"


def misspellings(tokenizer: Tokenizer, vocab_size: int, exempt: set[int], seed: int = 0) -> Tensor:
    """Ways to misspell each token, [vocab_size, VARIANTS, PIECES] tokens; -1 says nothing.

    A token without any (those `exempt`, short ones, what is no word) has itself in place of all.
    """
    rng = random.Random(seed)
    table = torch.full((vocab_size, VARIANTS, PIECES), -1)
    table[:, :, 0] = torch.arange(vocab_size)[:, None]
    for token in sorted(set(range(vocab_size)) - exempt):
        text = tokenizer.decode([token])
        word = text.removeprefix(" ")
        if len(word) < SHORTEST or not (word.isascii() and word.isalpha()):
            continue
        for variant in range(VARIANTS):
            pieces = tokenizer.encode(text.removesuffix(word) + _misheard(word, rng))[:PIECES]
            table[token, variant] = torch.tensor(pieces + [-1] * (PIECES - len(pieces)))
    return table


def _misheard(word: str, rng: random.Random) -> str:
    """A word with one to three of its letters wrong, never all of them right."""
    while True:
        letters = list(word)
        if len(word) > SHORTEST and rng.random() < 0.3:  # the end, less often the beginning, is not heard at all
            lost = rng.randint(1, len(word) // 2)
            letters = letters[:-lost] if rng.random() < 0.7 else letters[lost:]
        for _ in range(rng.randint(1, 1 + len(word) // 4)):
            at = rng.randrange(len(letters))
            others = _VOWELS if letters[at].lower() in _VOWELS else _CONSONANTS
            kind = rng.random()
            if kind < 0.4 and len(letters) > 1:
                del letters[at]
            elif kind < 0.8:
                letters[at] = rng.choice(others)
            else:
                letters.insert(at, rng.choice(_VOWELS + _CONSONANTS + " "))
        if (misheard := "".join(letters).strip()) and misheard != word:
            return misheard
