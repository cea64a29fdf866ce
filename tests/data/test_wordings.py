"""Sentences with choices."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from s2s.data.desk import load_desk
from s2s.data.wordings import Leads, Wordings, load_wordings

RECIPE = Path(__file__).parents[2] / "recipes" / "support_desk"
WORDS = {"parcel": "[parcel|box]"}


def test_choices_nest_and_may_be_empty() -> None:
    wordings = Wordings({"track": ["where is [my <parcel>|it][ now|]?"]}, WORDS)
    rng = random.Random(0)
    drawn = {wordings.draw("track", rng) for _ in range(200)}
    assert drawn == {"Where is my parcel?", "Where is my box?", "Where is it?", "Where is my parcel now?",
                     "Where is my box now?", "Where is it now?"}  # fmt: skip


def test_a_lead_is_put_before_sentences_but_not_before_greetings() -> None:
    wordings = Wordings(
        {"track": ["where is it?", "I want it."], "hello": ["hi."]}, WORDS, Leads("[Um,|Hi,]", 1.0, without=["hello"])
    )
    rng = random.Random(0)
    assert {wordings.draw("track", rng) for _ in range(60)} == {
        "Um, where is it?", "Hi, where is it?", "Um, I want it.", "Hi, I want it."}  # fmt: skip
    assert wordings.draw("hello", rng) == "Hi."


@pytest.mark.parametrize("template", ["where is [my parcel", "where <is> it", "a | b"])
def test_a_broken_sentence_is_named(template: str) -> None:
    with pytest.raises(ValueError, match="track: "):
        Wordings({"track": [template]}, WORDS)


def test_the_desks_wordings_cover_all_its_intents() -> None:
    files = RECIPE / "wordings.yaml", RECIPE / "wordings_more.yaml"
    wordings, desk = load_wordings(*files), load_desk(RECIPE / "desk.yaml")
    assert all(len(set(sentences)) == len(sentences) > 12 for sentences in wordings.intents.values())
    assert set(desk.intents) | {"track_with_number", "filler_unclear"} == set(wordings.intents)
    rng = random.Random(1)
    for intent in wordings.intents:
        assert len({wordings.draw(intent, rng) for _ in range(100)}) > 25, intent
    assert all("{number}" in wordings.draw("give_number", rng) for _ in range(20))


def test_what_two_files_hold_twice_is_named(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("words: {my: [my, the]}\nleads: {text: Um}\nintents: {track: [where is <my> box]}")
    other.write_text("intents: {track: [is <my> box here], hello: [hi]}")
    assert {name: len(found) for name, found in load_wordings(one, other).intents.items()} == {"track": 2, "hello": 1}
    for text in ("words: {my: [our]}\nintents: {}", "leads: {text: Oh}\nintents: {}"):
        other.write_text(text)
        with pytest.raises(ValueError, match=r"other\.yaml: .* are in another file already"):
            load_wordings(one, other)
