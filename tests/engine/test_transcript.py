"""Text of a stream, token by token."""

from __future__ import annotations

from s2s.engine.transcript import Transcript
from s2s.text import BpeTokenizer, ByteTokenizer


def test_words_keep_their_spaces() -> None:
    tokenizer = BpeTokenizer.train(["the cat sat on the mat"] * 20, 280)
    transcript, text = Transcript(tokenizer), " the mat sat"
    parts = [transcript.add(token) for token in tokenizer.encode(text)]
    assert "".join(parts) == text and len(parts) > 2 and all(parts)


def test_a_character_waits_for_its_bytes() -> None:
    transcript = Transcript(ByteTokenizer())
    assert [transcript.add(byte) for byte in "né€𝄞".encode()] == ["n", "", "é", "", "", "€", "", "", "", "𝄞"]


def test_ids_outside_the_vocabulary_say_nothing_and_part_nothing() -> None:
    transcript, (first, second) = Transcript(ByteTokenizer()), "é".encode()
    assert [transcript.add(token) for token in (256, first, 257, -1, 2**31 - 1, second)] == ["", "", "", "", "", "é"]


def test_actions_say_nothing_and_part_nothing() -> None:
    tokenizer = BpeTokenizer.train(["é"], 257, ("hangup",))
    transcript, (first, second) = Transcript(tokenizer), tokenizer.encode("é")
    assert [transcript.add(token) for token in (first, tokenizer.actions["hangup"], second)] == ["", "", "é"]


def test_broken_bytes_are_shown_and_hold_nothing_up() -> None:
    transcript = Transcript(ByteTokenizer())
    assert [transcript.add(byte) for byte in b"\xf0ab"] == ["", "\ufffda", "b"]
    assert [transcript.add(byte) for byte in b"\x80\x80\x80\x80c"] == ["", "", "", "\ufffd" * 4, "c"]
