"""Resampling: right in the pass band, silent where it must be, and the same at any chunking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.audio.resample import StreamingResampler, resample

RATES = [(8000, 24000), (24000, 8000), (16000, 24000), (24000, 16000), (44100, 24000), (24000, 48000)]


def tone(rate: int, hz: float, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_tone_keeps_its_phase_and_level(from_rate: int, to_rate: int, streaming: bool) -> None:
    x, expected = tone(from_rate, 1000), tone(to_rate, 1000)
    y = StreamingResampler(from_rate, to_rate).process(x, last=True) if streaming else resample(x, from_rate, to_rate)
    middle = slice(to_rate // 20, -to_rate // 20)
    assert y.dtype == np.float32
    assert len(y) == len(expected)
    assert np.abs(y[middle] - expected[middle]).max() < 1e-3


@pytest.mark.parametrize(
    ("from_rate", "to_rate", "hz"), [(24000, 8000, 4200), (48000, 24000, 12600), (24000, 16000, 8400)]
)
def test_nothing_folds_back_from_above_the_new_band(from_rate: int, to_rate: int, hz: float) -> None:
    for y in (
        StreamingResampler(from_rate, to_rate).process(tone(from_rate, hz), last=True),
        resample(tone(from_rate, hz), from_rate, to_rate),
    ):
        assert np.abs(y[to_rate // 20 : -to_rate // 20]).max() < 10 ** (-65 / 20)


def test_no_images_above_the_old_band() -> None:
    y = StreamingResampler(8000, 24000).process(tone(8000, 3400), last=True)[1000:-1000]
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y))))
    hz = np.fft.rfftfreq(len(y), 1 / 24000)
    assert spectrum[hz > 4500].max() < 10 ** (-65 / 20) * spectrum.max()


@settings(max_examples=40)
@given(st.sampled_from([*RATES, (24000, 24000)]), st.lists(st.integers(0, 700), max_size=12), st.integers(1, 2))
def test_chunks_equal_the_whole_bit_for_bit(rates: tuple[int, int], lengths: list[int], channels: int) -> None:
    x = np.random.default_rng(1).standard_normal((channels, sum(lengths))).astype(np.float32)
    whole = StreamingResampler(*rates, channels).process(x, last=True)
    resampler = StreamingResampler(*rates, channels)
    pieces = [resampler.process(piece) for piece in np.split(x, np.cumsum(lengths), axis=1)]
    pieces.append(resampler.process(x[:, :0], last=True))
    assert whole.shape == (channels, -(-x.shape[1] * rates[1] // rates[0]))
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)


def test_a_long_chunk_equals_short_ones() -> None:
    x = np.random.default_rng(2).standard_normal(20000).astype(np.float32)
    resampler = StreamingResampler(8000, 24000)
    pieces = [resampler.process(x[i : i + 160], last=i + 160 >= len(x)) for i in range(0, len(x), 160)]
    assert np.array_equal(np.concatenate(pieces), StreamingResampler(8000, 24000).process(x, last=True))


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
def test_the_delay_is_what_it_says(from_rate: int, to_rate: int) -> None:
    """An output appears with the input `delay` samples after its own time, not before and not later."""
    resampler = StreamingResampler(from_rate, to_rate)
    assert resampler.delay / from_rate <= 0.003
    emitted = 0
    for fed in range(1, 4 * resampler.delay):
        emitted += len(resampler.process(np.zeros(1, dtype=np.float32)))
        # The next output, at input position emitted * from / to, is not yet known: it needs an input still to come.
        assert emitted * from_rate // to_rate + resampler.delay >= fed
        if emitted:
            assert (emitted - 1) * from_rate // to_rate + resampler.delay < fed


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
def test_a_step_shows_no_pre_echo_before_the_delay(from_rate: int, to_rate: int) -> None:
    start = 2000
    x = np.zeros(4000, dtype=np.float32)
    x[start] = 1.0
    resampler = StreamingResampler(from_rate, to_rate)
    first = np.flatnonzero(resampler.process(x, last=True))[0] * from_rate / to_rate
    assert start - resampler.delay <= first < start


def test_the_signal_starts_anew_after_last_and_reset() -> None:
    x = np.random.default_rng(3).standard_normal(500).astype(np.float32)
    resampler = StreamingResampler(8000, 24000)
    first = resampler.process(x, last=True)
    assert np.array_equal(resampler.process(x, last=True), first)
    resampler.process(x)
    resampler.reset()
    assert np.array_equal(resampler.process(x, last=True), first)


@pytest.mark.parametrize("length", [0, 1, 7, 1001])
@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
def test_offline_length_and_shape(from_rate: int, to_rate: int, length: int) -> None:
    expected = -(-length * to_rate // from_rate)
    assert resample(np.zeros(length), from_rate, to_rate).shape == (expected,)
    assert resample(np.zeros((2, length)), from_rate, to_rate).shape == (2, expected)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="sample rate"):
        resample(np.zeros(3), 0, 24000)
    with pytest.raises(ValueError, match="sample rate"):
        StreamingResampler(8000, -1)
    with pytest.raises(ValueError, match=r"expected \[2, samples\]"):
        StreamingResampler(8000, 24000, channels=2).process(np.zeros(5))
    with pytest.raises(ValueError, match="got shape"):
        resample(np.zeros((1, 1, 1)), 8000, 24000)
