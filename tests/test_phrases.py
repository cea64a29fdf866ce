"""Phrases: what an agent may write, as a file and as a graph of tokens."""

from __future__ import annotations

import json

import pytest

from s2s.data.desk import load_desk
from s2s.phrases import Graph, Phrase, Phrases
from s2s.text import BpeTokenizer, ByteTokenizer, Tokenizer
from tests.data.desk_clips import DESK

BOOK = Phrases((Phrase("Good bye.", "hangup"), Phrase("I have {code}. Right?")), {"code": 2})
TOKENIZER = BpeTokenizer.train(["Good bye. I have one two. Right?"] * 5, 290, ("hangup",))


def follows(graph: Graph, tokens: list[int]) -> set[int]:
    """The places behind these tokens, from the first one on."""
    at = {0}
    for token in tokens:
        at = {to for place, edge, to in graph.edges if place in at and edge == token}
    return at


def written(text: str, tokenizer: Tokenizer = TOKENIZER) -> list[int]:
    return [token for word in text.split() for token in tokenizer.encode(" " + word)]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, ByteTokenizer()])
def test_the_graph_holds_every_phrase_and_every_number(tokenizer: Tokenizer) -> None:
    graph = Phrases(BOOK.phrases[1:], BOOK.slots).graph(tokenizer)
    for number in ("one two", "zero zero", "nine three"):
        assert follows(graph, written(f"I have {number}. Right?", tokenizer)) & graph.final
    for wrong in ("I have one. Right?", "I have one two three. Right?", "I have Right?", "Right?", "I have one two."):
        assert not follows(graph, written(wrong, tokenizer)) & graph.final


def test_an_action_may_follow_its_phrase_and_no_other() -> None:
    graph, action = BOOK.graph(TOKENIZER), TOKENIZER.actions["hangup"]
    assert follows(graph, written("Good bye.")) & graph.final, "the action can be left out"
    assert follows(graph, [*written("Good bye."), action]) & graph.final
    assert not follows(graph, [*written("I have one two. Right?"), action]) and not follows(graph, [action])
    with pytest.raises(ValueError, match=r"action 'hangup' is none of the tokenizer's: \[\]"):
        BOOK.graph(ByteTokenizer())


def test_phrases_come_back_from_their_file() -> None:
    assert Phrases.from_json(BOOK.to_json()) == BOOK
    assert load_desk(DESK).phrases() == Phrases.from_json(load_desk(DESK).phrases().to_json())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"phrases": []}, "phrases is empty"),
        ({"phrases": [{"text": " "}]}, "has no words"),
        ({"phrases": [{"text": "It is {x}."}]}, "slot 'x' has no number of digits"),
        ({"phrases": [{"text": "It is {x}."}], "slots": {"x": 0}}, "slot 'x' has no number of digits"),
        ({"phrases": [{"txt": "Yes."}]}, "did you mean 'text'"),
        ({}, "phrases"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(fields: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Phrases.from_json(json.dumps(fields))
    with pytest.raises(ValueError, match="not JSON"):
        Phrases.from_json("{")


def test_the_desk_may_say_all_its_replies() -> None:
    desk = load_desk(DESK)
    tokenizer = BpeTokenizer.train(list(desk.fixed_replies().values()), 400, desk.actions)
    graph = desk.phrases().graph(tokenizer)
    said = [*desk.fixed_replies().values(), desk.read_back("give_number", "4271"), desk.read_back("give_zip", "90218")]
    assert all(follows(graph, written(text, tokenizer)) & graph.final for text in said)
    assert not follows(graph, written("We are deliver again tomorrow.", tokenizer))
