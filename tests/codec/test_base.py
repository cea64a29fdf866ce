"""The numbers of a codec and the shapes it takes."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from s2s.codec.base import CodecSpec, check_codes, check_wav


def test_rates_follow_from_the_numbers() -> None:
    spec = CodecSpec(24000, 960, 8, 1024)
    assert spec.frame_rate == 25
    assert spec.bits_per_second == 2000
    assert CodecSpec(16000, 960, 1, 2).frame_rate == Fraction(50, 3)


@pytest.mark.parametrize("name", ["sample_rate", "frame_size", "num_codebooks", "codebook_size"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, allowed are positive integers"):
        CodecSpec(**{name: 0})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 960), r"wav has the shape \[2, 960\], expected \[B, 1, N\]"),
        ((1, 2, 960), r"wav has the shape \[1, 2, 960\]"),
        ((1, 1, 961), "961 samples, which is not a multiple of the frame of 960: use a Framer"),
        ((1, 1, 0), "wav has no samples"),
    ],
)
def test_wrong_audio_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_wav(torch.zeros(shape), CodecSpec())


@pytest.mark.parametrize("shape", [(8, 5), (1, 9, 5), (1, 0, 5), (1, 8, 0)])
def test_wrong_codes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"codes have the shape .*, expected \[B, 1..8, 1 or more\]"):
        check_codes(torch.zeros(shape, dtype=torch.long), CodecSpec())


def test_right_shapes_pass() -> None:
    check_wav(torch.zeros(3, 1, 2 * 960), CodecSpec())
    check_codes(torch.zeros(3, 2, 5, dtype=torch.long), CodecSpec())
