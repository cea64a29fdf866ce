"""Which clips a caller's turns are made of: whose voice they have, and what may be trained on."""

import numpy as np
import pytest

from s2s.data.clips import Clip
from s2s.data.desk import split_of
from s2s.data.schema import Word
from s2s.data.utterances import Callers, Speaker, split_of_clip


def clip(text: str, voice: str = "af_one", part: int = 0, pair: str = "", digits: str = "") -> Clip:
    return Clip(np.zeros(2400, np.int16), text, "refund", digits, voice, 1.0, part, pair, 0.0, 0.1, (), ())


def test_both_halves_are_of_the_split_of_the_whole() -> None:
    pairs = [(f"I would like number {n},", "if I may, to pay back.") for n in range(200)]
    apart = [pair for pair in pairs if split_of(" ".join(pair)) == "test" and split_of(pair[0]) == "train"]
    assert apart
    for first, second in apart:
        assert split_of_clip(clip(first, part=1, pair=second)) == "test"
        assert split_of_clip(clip(second, part=2, pair=first)) == "test"
        assert split_of_clip(clip(first)) == "train"


def test_a_number_that_is_held_out_holds_its_clip_out() -> None:
    held_out = next(f"{n:04d}" for n in range(1000) if split_of("It is", f"{n:04d}") == "test")
    assert split_of_clip(clip(f"It is {held_out}", digits=held_out)) == "test"


@pytest.mark.parametrize(
    "voice", ["am_two", "am_two:0.60+bm_four:0.40", "am_two/zm_six", "am_two:0.50+am_x:0.50/zm_six"]
)
def test_a_caller_is_known_by_the_voice_that_leads(voice: str) -> None:
    assert Callers([clip("My money back.", voice)], 24000, ()).voices == ["am_two"]


def test_a_hesitation_stands_between_two_words_and_parts_them() -> None:
    rate, tone = 24000, np.full(6000, 9000, np.int16)
    gap = np.zeros(480, np.int16)  # too short to be a silence of the clip's own
    pcm = np.concatenate([tone, gap, tone, gap, tone])
    # Word times are a little off, as they are where no aligner placed them.
    words = tuple(Word(text, 0.27 * n + 0.02, 0.27 * n + 0.24) for n, text in enumerate(("my", "money", "back")))
    spoken = Clip(pcm, "My money back.", "refund", "", "af_one", 1.0, 0, "", 0.0, len(pcm) / rate, words, ())
    callers, speaker = Callers([spoken], rate, ()), Speaker("af_one", 1.0, 1.0, 1.0)
    assert callers.utterance(spoken, "train", speaker, 0.8).pauses_s == ()
    cuts = set()
    for seed in range(20):
        said = callers.utterance(spoken, "train", speaker, 0.8, np.random.default_rng(seed))
        ((start, end),) = said.pauses_s
        assert end - start == pytest.approx(0.8) and len(said.wav) == len(pcm) + round(0.8 * rate)
        assert np.abs(said.wav[round(start * rate) : round(end * rate)]).max() < 1e-6
        before = [word.text for word in said.words if word.end_s <= start + 0.08]
        after = [word.text for word in said.words if word.start_s >= end - 0.08]
        assert before and after and before + after == ["my", "money", "back"]
        assert any(abs(start - at) < 0.02 for at in (0.26, 0.53)), "in the gap, not amid a word"
        cuts.add(len(before))
    assert cuts == {1, 2}
