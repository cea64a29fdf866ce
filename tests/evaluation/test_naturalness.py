from pathlib import Path

import numpy as np
import pytest

from s2s.audio.io import read_audio
from s2s.evaluation.naturalness import Naturalness


def test_noise_and_clipping_sound_less_natural() -> None:
    pytest.importorskip("distillmos")
    wav, rate = read_audio(Path(__file__).with_name("caller.ogg"))
    clean = wav[0]
    noisy = clean + 0.05 * np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    judge = Naturalness()
    scores = judge.score([clean, noisy, np.clip(20 * clean, -0.1, 0.1)], rate)
    assert 3.0 < scores[0] < 5.1
    assert max(scores[1:]) < scores[0] - 0.5
    assert judge.score([noisy, clean], rate)[1] == pytest.approx(scores[0], abs=1e-6)
    with pytest.raises(ValueError, match="N > 0"):
        judge.score([clean[:0]], rate)
