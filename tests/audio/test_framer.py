"""Framing does not depend on how the signal was cut on its way in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.audio.framer import Framer


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 17))
def test_any_chunks_give_the_frames_of_the_whole(lengths: list[int], frame_size: int) -> None:
    signal = np.arange(1, sum(lengths) + 1, dtype=np.int16)
    framer = Framer(frame_size)
    frames, position = [], 0
    for length in lengths:
        frames.append(framer.push(signal[position : position + length]))
        position += length
        assert framer.num_pending == position % frame_size
    frames.append(framer.flush())
    whole = np.concatenate(frames)
    assert whole.shape == (-(-len(signal) // frame_size), frame_size)
    assert np.array_equal(whole.ravel()[: len(signal)], signal)
    assert not whole.ravel()[len(signal) :].any()
    assert framer.num_pending == 0


def test_the_dtype_is_that_of_the_first_chunk() -> None:
    framer = Framer(4)
    assert framer.push(np.zeros(3, dtype=np.int16)).dtype == np.int16
    assert framer.push(np.zeros(3)).dtype == np.int16
    assert framer.flush().dtype == np.int16


def test_frames_do_not_share_memory_with_the_input() -> None:
    chunk = np.zeros(4, dtype=np.float32)
    framer = Framer(3)
    frames = framer.push(chunk)
    chunk[:] = 1.0
    assert not frames.any()
    assert not framer.flush().any()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Framer(0)
    with pytest.raises(ValueError, match="one channel"):
        Framer(2).push(np.zeros((1, 4)))
