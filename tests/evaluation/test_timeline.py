from pathlib import Path

import numpy as np
import pytest

from s2s.audio.io import AudioError, read_audio
from s2s.data.schema import Word
from s2s.evaluation.audibility import Span
from s2s.evaluation.timeline import answer_gap, draw_timeline, write_stereo

from .tones import RATE, track

matplotlib_image = pytest.importorskip("matplotlib.image")

CALLER, AGENT = track(4.0, (0.5, 1.5)), track(5.0, (1.74, 3.0))


def pixels(path: Path) -> np.ndarray:
    return matplotlib_image.imread(path)[..., :3]


def pinkish(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > 0.7) & (image[..., 1] < 0.45) & (image[..., 2] < 0.55) & (image[..., 2] > image[..., 1])


def test_stereo_has_the_caller_on_the_left_and_one_length(tmp_path: Path) -> None:
    wav, rate = read_audio(write_stereo(tmp_path / "call.wav", CALLER, AGENT, RATE))
    assert rate == RATE
    assert wav.shape == (2, len(AGENT))
    assert np.abs(wav[0, : len(CALLER)] - CALLER).max() < 1e-4
    assert np.abs(wav[1] - AGENT).max() < 1e-4
    assert not wav[0, len(CALLER) :].any()
    with pytest.raises(AudioError):
        write_stereo(tmp_path / "missing" / "call.wav", CALLER, AGENT, RATE)


def test_the_gap_is_the_silence_before_the_answer() -> None:
    assert answer_gap(CALLER, AGENT, RATE) == Span(3 * RATE // 2, round(1.74 * RATE))
    assert answer_gap(CALLER, track(5.0, (1.4, 3.0)), RATE) is None
    assert answer_gap(CALLER, track(5.0), RATE) is None


def test_picture_shows_waves_words_and_gap(tmp_path: Path) -> None:
    words = ([Word("hello", 0.5, 0.9)], [Word("good", 1.74, 2.0), Word("morning", 2.0, 2.9)])
    with_all = pixels(draw_timeline(tmp_path / "all.png", (CALLER, AGENT), RATE, words, title="A call"))
    no_words = pixels(draw_timeline(tmp_path / "no_words.png", (CALLER, AGENT), RATE, title="A call"))
    assert with_all.shape[1] > with_all.shape[0]
    assert (with_all != no_words).any()
    assert pinkish(with_all).sum() > 200
    silent = pixels(draw_timeline(tmp_path / "silent.png", (CALLER, track(5.0)), RATE))
    assert pinkish(silent).sum() == 0
    assert (silent < 0.7).any()


@pytest.mark.parametrize("seconds", [0.0, 0.01, 90.0])
def test_any_length_can_be_drawn(tmp_path: Path, seconds: float) -> None:
    many = [Word(f"word{i}", i * 0.05, i * 0.05 + 0.04) for i in range(40)]
    path = draw_timeline(tmp_path / "t.svg", (track(seconds), track(0.0)), RATE, (many, ()))
    assert path.read_text().startswith("<?xml")
