import numpy as np
import pytest

pytest.importorskip("whisper_normalizer")
pytest.importorskip("jiwer")

from s2s.data.schema import Dialogue
from s2s.evaluation.audibility import Span
from s2s.evaluation.recognise import Transcript
from s2s.evaluation.replies import ExpectedReply, score_replies, score_text, task_success

from .tones import RATE, track

NUMBER = "Thank you. I have parcel four two seven one. Is that right?"


class Scripted:
    """Hears the given texts in turn, and remembers the length in seconds of what it was given."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.lengths: list[float] = []

    def transcribe(self, wav: np.ndarray, sample_rate: int, word_times: bool = True) -> Transcript:
        self.lengths.append(len(wav) / sample_rate)
        return Transcript(self.texts.pop(0), ())


def expected(text: str, *slots: str, start: float = 0.5, end: float = 1.5, label: str = "") -> ExpectedReply:
    return ExpectedReply(Span(round(start * RATE), round(end * RATE)), text, slots, label)


@pytest.mark.parametrize(
    ("heard", "success"),
    [
        ("Thank you, I have parcel 4271, is that right?", True),
        ("Thank you, I've parcel 4271, is that all right?", True),
        ("Thank you. I have parcel 4371. Is that right?", False),  # one digit in twelve words, but a slot
        ("Thank you. I have parcel 42719. Is that right?", False),
        ("Thank you. I have parcel 94271. Is that right?", False),
        ("Refunds take parcel 4271 working days.", False),
        ("", False),
    ],
)
def test_slots_are_exact_and_the_rest_may_differ_by_a_fifth(heard: str, success: bool) -> None:
    assert score_text(expected(NUMBER, "4271"), heard).success is success


def test_two_slots_need_two_places() -> None:
    reply = expected("From eight to eight.", "eight", "eight")
    assert score_text(reply, "from 8 to 8").success
    assert not score_text(reply, "from 8 to nine").slots_exact


def test_replies_are_heard_in_their_own_turn() -> None:
    user = track(12.0, (0.5, 1.5), (6.0, 7.0))
    agent = track(12.0, (1.7, 2.7), (3.0, 4.0), (7.3, 9.0))
    hears = Scripted("Refunds take 3 to 5 working days.", "Thank you for calling. Goodbye.")
    asked = [
        expected("Refunds take three to five working days.", label="refund"),
        expected("Thank you for calling. Goodbye.", start=6.0, end=7.0, label="goodbye"),
    ]
    scores = score_replies(Dialogue("d", user, agent, RATE), asked, hears)
    assert [score.success for score in scores] == [True, True]
    assert [score.gap_ms for score in scores] == pytest.approx([200, 300])
    assert hears.lengths == pytest.approx([2.6, 2.0])  # what is audible, and 150 ms on both sides


def test_what_comes_after_a_long_silence_is_no_part_of_the_answer() -> None:
    user, agent = track(14.0, (0.5, 1.5)), track(14.0, (1.7, 2.7), (4.0, 5.0), (11.0, 12.0))
    hears = Scripted("Refunds take 3 to 5 working days.")
    (score,) = score_replies(Dialogue("d", user, agent, RATE), [expected("Refunds")], hears)
    assert hears.lengths == pytest.approx([3.6])
    assert score.gap_ms == pytest.approx(200)


def test_an_answer_in_the_next_turn_is_no_answer() -> None:
    user, agent = track(12.0, (0.5, 1.5), (6.0, 7.0)), track(12.0, (7.3, 9.0))
    hears = Scripted("We are open from 8 to 6.")
    asked = [expected("We are open from eight to six."), expected("Goodbye.", start=6.0, end=7.0)]
    first, second = score_replies(Dialogue("d", user, agent, RATE), asked, hears)
    assert not first.success
    assert first.gap_ms is None
    assert first.heard == ""
    assert not second.success
    with pytest.raises(ValueError, match="order"):
        score_replies(Dialogue("d", user, agent, RATE), asked[::-1], hears)


def test_silence_can_be_the_right_reply() -> None:
    silent = Dialogue("d", track(4.0, (0.5, 1.5)), track(4.0), RATE)
    talking = Dialogue("d", track(4.0, (0.5, 1.5)), track(4.0, (2.0, 3.0)), RATE)
    assert score_replies(silent, [expected("")], Scripted())[0].success
    assert not score_replies(talking, [expected("")], Scripted("Are you still there?"))[0].success


def test_task_success_counts_missing_answers_everywhere() -> None:
    scores = [
        score_text(expected("Goodbye.", label="goodbye"), "Goodbye!", 200.0),
        score_text(expected("Goodbye.", label="goodbye"), "", None),
        score_text(expected("", label="hold_on"), "", None),
    ]
    report = task_success(scores)
    assert (report["success"]["successes"], report["success"]["n"]) == (2, 3)
    assert report["by_label"]["goodbye"]["rate"] == 0.5
    assert (report["word_errors"]["errors"], report["word_errors"]["words"]) == (1, 2)
    assert (report["v2v_ms"]["n"], report["v2v_ms"]["failures"], report["v2v_ms"]["max"]) == (2, 1, None)
