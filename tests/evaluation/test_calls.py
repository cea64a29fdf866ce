"""Calls: a played call is scored turn by turn; the model is replaced by known tracks, the recogniser by known words."""

import numpy as np
import pytest

from s2s.data.schema import Dialogue, Word
from s2s.evaluation import calls
from s2s.evaluation.answer import Answer, AnswerConfig
from s2s.evaluation.recognise import Transcript

RATE = 24000


class Repeats:
    """A recogniser that always hears the same words."""

    def __init__(self, text):
        self.text = text

    def transcribe(self, wav, sample_rate, word_times=True):
        return Transcript(self.text, [])


def tone(start_s, end_s, length_s=6.0):
    wav = np.zeros(round(length_s * RATE), np.float32)
    span = slice(round(start_s * RATE), round(end_s * RATE))
    wav[span] = 0.3 * np.sin(np.arange(span.stop - span.start) * 0.1)
    return wav


def desk_call(**changes):
    turn = {"intent": "give_number", "start_s": 0.5, "end_s": 1.5, "barge_in": False, "digits": "4271",
            "reply_text": "Thank you. I have parcel four two seven one. Is that right?"} | changes  # fmt: skip
    words = [Word("four", 0.5, 1.5)]
    return Dialogue("call", tone(0.5, 1.5), tone(1.8, 3.5), RATE, words, [], {"turns": [turn], "kind": "caller_first"})


@pytest.fixture
def model(monkeypatch):
    def answer(wav):
        caller = np.zeros(6 * RATE, np.float32)
        caller[: len(wav)] = wav
        return Answer(caller, tone(1.8, 3.5), RATE, [Word("four", 0.5, 1.5)], [Word("Thank", 1.8, 2.0)], [0.01], 0.04)

    monkeypatch.setattr(calls, "answer_all", lambda bundle, wavs, rate, config, openings: [answer(wav) for wav in wavs])


@pytest.mark.parametrize(
    ("heard", "right"),
    [
        ("Thank you. I have parcel 4271. Is that right?", True),
        ("Thank you. I have parcel 4272. Is that right?", False),
        ("Our shop is at 12 Mill Street.", False),
    ],
)
def test_a_number_must_be_read_back_exactly(model, heard, right):
    (played,) = calls.play_calls(None, [desk_call()], Repeats(heard), AnswerConfig())
    assert [score.success for score in played.scores] == [right]
    assert played.scores[0].gap_ms == pytest.approx(300, abs=20)
    report = calls.report([played])
    assert report["replies"]["success"]["successes"] == int(right)
    assert report["caller_word_errors"]["errors"] == 0
    assert "| give_number |" in calls.table(report)


def test_a_call_without_turns_cannot_be_judged(model):
    call = desk_call()
    call.meta = {}
    with pytest.raises(ValueError, match="no turns"):
        list(calls.play_calls(None, [call], Repeats(""), AnswerConfig()))
