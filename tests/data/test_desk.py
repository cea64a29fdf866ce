"""The desk's rules: replies, slots, what the agent waits for, and the split of wordings."""

from pathlib import Path

import pytest

from s2s.data.desk import DeskCall, load_desk, parse_desk, phrasing, speak_digits, split_of

DESK = load_desk(Path(__file__).parents[2] / "recipes" / "support_desk" / "desk.yaml")


def test_track_to_status_reads_the_number_back_and_answers_by_its_first_digit() -> None:
    call = DeskCall(DESK)
    assert call.hear("track").text == "Sure. Please tell me your four digit parcel number."
    assert call.waiting == "number"
    assert call.hear("give_number", "4271").text == "Thank you. I have parcel four two seven one. Is that right?"
    assert call.waiting == "confirm_number"
    assert call.hear("confirm_number_yes").key == "confirm_number_yes/4-6"
    assert call.waiting == ""


@pytest.mark.parametrize(("number", "key"), [("0000", "0-3"), ("3999", "0-3"), ("4000", "4-6"), ("7000", "7-9")])
def test_status_by_first_digit(number: str, key: str) -> None:
    assert DESK.status(number)[0] == f"confirm_number_yes/{key}"


def test_no_asks_for_the_same_thing_again() -> None:
    call = DeskCall(DESK)
    call.hear("change_address")
    call.hear("give_zip", "12345")
    assert call.waiting == "confirm_zip"
    assert call.hear("confirm_no").text == "Sorry about that. Please say the number again."
    assert call.waiting == "zip"
    call.hear("give_zip", "12346")
    assert call.hear("confirm_zip_yes").key == "confirm_zip_yes"


def test_number_in_the_question_is_read_back_at_once() -> None:
    reply = DeskCall(DESK).hear("track_with_number", "0005")
    assert (reply.key, reply.digits) == ("give_number", "0005")
    assert "zero zero zero five" in reply.text


def test_second_unclear_turn_in_a_row_goes_to_a_colleague() -> None:
    call = DeskCall(DESK)
    assert call.hear("filler_unclear").text == "Sorry, I did not catch that. Could you say it again?"
    assert call.hear("out_of_scope").action == "handoff"
    call = DeskCall(DESK)
    call.hear("filler_unclear")
    call.hear("price")
    assert call.hear("out_of_scope").key == "out_of_scope"


def test_repeat_and_hold_on_keep_the_question_open() -> None:
    call = DeskCall(DESK)
    assert not call.allows("repeat")
    asked = call.hear("redeliver")
    assert call.hear("repeat") == asked
    call.hear("hold_on")
    assert call.waiting == "part_of_day"
    assert call.hear("say_morning").text.startswith("Morning it is.")


def test_silence_asks_once_and_then_hangs_up() -> None:
    call = DeskCall(DESK)
    call.open()
    assert call.silence().text == "Are you still there?"
    assert call.silence().action == "hangup"


def test_what_makes_no_sense_now_is_refused() -> None:
    call = DeskCall(DESK)
    with pytest.raises(ValueError, match="say_morning"):
        call.hear("say_morning")
    with pytest.raises(ValueError, match="427"):
        call.hear("give_number", "427")


def test_every_reply_without_a_slot_has_a_text_of_its_own() -> None:
    replies = DESK.fixed_replies()
    without_slot = set(DESK.intents) - {"give_number", "give_zip", "repeat", "confirm_number_yes"}
    assert without_slot < set(replies)
    assert len(replies) == len(without_slot) + 3 + 5
    assert not any("{" in text or "(" in text for text in replies.values())
    with pytest.raises(ValueError, match="rules"):
        parse_desk({"company": "x", "opening": "y", "intents": {}})


def test_phrasing_forgets_digits_and_case_only() -> None:
    assert speak_digits("407") == "four zero seven"
    assert phrasing("It's double four, two one.", "4421") == phrasing("it's OH nine nine eight", "0998") == "it's #"
    assert phrasing("Which one?") == "which one"


def test_splits_hold_out_about_a_tenth_and_are_fixed() -> None:
    texts = [f"where is the parcel called {index}" for index in range(2000)]
    held_out = [text for text in texts if split_of(text) != "train"]
    assert 150 < len(held_out) < 260
    assert split_of("Yes, please.") == "train"
    by_carrier = {split_of(f"Hello I would like {speak_digits(d)}.", d) for d in ("1111", "2222", "9876")}
    assert len(by_carrier) <= 2
    numbers = [f"{index:04d}" for index in range(2000)]
    assert 150 < sum(split_of(speak_digits(number), number) != "train" for number in numbers) < 260
