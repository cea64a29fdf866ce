"""Misspellings: what a word still tells of itself once it was misheard."""

from __future__ import annotations

import torch
from torch import Tensor

from s2s.phrases import DIGIT_WORDS
from s2s.streams import dialogue_layout
from s2s.text import BpeTokenizer
from s2s.train.misspelling import misspellings
from s2s.train.reading import Reading, ReadRows

WORDS = "parcel deliver collect address complain insurance it"
TOKENIZER = BpeTokenizer.train(
    [f" {WORDS}", *(" " + word for word in WORDS.split()), " " + " ".join(DIGIT_WORDS)] * 20, 420
)
STREAM = dialogue_layout(2, 16, TOKENIZER.vocab_size).stream("user_text")


def token_of(text: str) -> int:
    (token,) = TOKENIZER.encode(text)
    return token


def text_of(tokens: Tensor) -> str:
    return TOKENIZER.decode([token for token in tokens.tolist() if 0 <= token < TOKENIZER.vocab_size])


def test_a_token_is_misspelt_in_many_ways_and_keeps_most_of_its_letters() -> None:
    table = misspellings(TOKENIZER, TOKENIZER.vocab_size, exempt=set())
    for word in (" parcel", " complain", " insurance"):
        ways = {text_of(way) for way in table[token_of(word)]}
        assert word not in ways and len(ways) > 15
        shared = [len(set(way) & set(word)) / len(set(word)) for way in ways]
        assert sum(shared) / len(shared) > 0.4, "letters drawn at random would have a quarter"
        assert all(way.startswith(" ") for way in ways), "a word that begins does so misspelt, too"
    assert torch.equal(table, misspellings(TOKENIZER, TOKENIZER.vocab_size, exempt=set())), "drawn from a seed"


def test_digits_short_tokens_and_bytes_stay_as_they_are() -> None:
    exempt = {token_of(" seven")}
    table = misspellings(TOKENIZER, TOKENIZER.vocab_size, exempt)
    for token in (*exempt, token_of(" it"), 0, 200):
        assert (table[token, :, 0] == token).all() and (table[token, :, 1:] == -1).all()


def test_rows_that_are_read_hold_misspelt_words_and_digits_as_said() -> None:
    torch.manual_seed(0)
    reading = Reading(TOKENIZER, STREAM, share=1.0)
    words = torch.full((400, 40), STREAM.pad_id)
    said = TOKENIZER.encode(" collect parcel seven three insurance")
    words[:, 5 : 5 + 4 * len(said) : 4] = torch.tensor(said)
    every = torch.ones(400, dtype=torch.bool)
    given = reading.given(words, ReadRows(every, every, every, words, words))
    texts = [text_of(row) for row in given]
    assert all(" seven three" in text for text in texts), "what has to be copied is there"
    assert len({text.split(" seven")[0] for text in texts}) > 40
    right = sum(" parcel" in text for text in texts) / len(texts)
    assert 0.55 < right < 0.85  # 8 % left out, 3 % wrong, 17 % misspelt
    assert any(len(row[row < STREAM.vocab_size]) > len(said) for row in given), "one token may become several"
