"""Tokenizers: any text round-trips, words keep their space, files load back."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.text import BpeTokenizer, ByteTokenizer, Tokenizer, load_tokenizer

TEXTS = ["where is my parcel", "my parcel is late", "the parcel number is four four two", "thank you, good bye"] * 3
BPE = BpeTokenizer.train(TEXTS, 300)


@pytest.fixture(params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else BPE


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        ids = tokenizer.encode(text)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["", " ", "  two  spaces ", "\n\t", "naïve 日本 🙂", "<|endoftext|>", "\x00"])
def test_awkward_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_shortens_known_text_and_is_deterministic() -> None:
    assert BPE.vocab_size == 300
    assert len(BPE.encode(" parcel")) < len(" parcel")
    assert BpeTokenizer.train(iter(TEXTS), 300).to_json() == BPE.to_json()


def test_a_word_begins_with_its_space_and_has_no_other() -> None:
    pieces = [BPE.decode([i]) for i in BPE.encode(" parcel where number")]
    assert [piece for piece in pieces if " " in piece[1:]] == []
    assert sum(piece.startswith(" ") for piece in pieces) == 3


def test_ids_outside_the_vocabulary_are_ignored(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("hello")
    assert tokenizer.decode([tokenizer.vocab_size, *ids, tokenizer.vocab_size + 1, -1]) == "hello"


def test_half_a_character_is_shown_as_replacement(tokenizer: Tokenizer) -> None:
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("é")[:1])


def test_json_and_pickle_give_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    for copy in (load_tokenizer(tokenizer.to_json()), pickle.loads(pickle.dumps(tokenizer))):
        assert type(copy) is type(tokenizer)
        assert copy.vocab_size == tokenizer.vocab_size
        assert copy.encode("my parcel is ünknown") == tokenizer.encode("my parcel is ünknown")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"model": {"type": "WordLevel"}}', '{"model": {"type": "BPE"}}']
)
def test_a_broken_file_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="token"):
        load_tokenizer(text)


def test_a_vocabulary_without_all_bytes_is_refused() -> None:
    fields = json.loads(BPE.to_json())
    del fields["model"]["vocab"]["a"]
    fields["model"]["merges"] = []
    with pytest.raises(ValueError, match="bytes"):
        BpeTokenizer.from_json(json.dumps(fields))


def test_too_small_a_vocabulary_and_a_lone_surrogate_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="256"):
        BpeTokenizer.train(TEXTS, 100)
    with pytest.raises(ValueError, match="surrogates"):
        tokenizer.encode("\ud800")


def test_actions_are_ids_that_no_text_holds() -> None:
    tokenizer = BpeTokenizer.train(["hello there"] * 5, 300, ("handoff", "hangup"))
    again = load_tokenizer(tokenizer.to_json())
    assert again.actions == tokenizer.actions
    assert sorted(again.actions.values()) == [again.vocab_size - 2, again.vocab_size - 1]
    said = again.encode("hello <|hangup|>")
    assert not set(said) & set(again.actions.values())
    assert again.decode([*said, again.actions["hangup"]]) == "hello <|hangup|>"
    assert dict(ByteTokenizer().actions) == {}
