"""What may happen to a caller's voice: each effect by a measurement, and repeatability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from s2s.data.augment import (
    AugmentConfig,
    augment_caller,
    echo,
    lose_packets,
    room,
    scaled_noise,
    speech_rms,
    telephone,
)

RATE = 24_000
NEVER = AugmentConfig(room_chance=0, echo_chance=0, noise_chance=0, gain_chance=0, telephone_chance=0, loss_chance=0)
ALWAYS = AugmentConfig(room_chance=1, echo_chance=1, noise_chance=1, gain_chance=1, telephone_chance=1, loss_chance=1)


def _tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def _db(wav: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(wav, dtype=np.float64)) + 1e-20)


def test_nothing_happens_when_nothing_may() -> None:
    user = _tone(440)
    assert np.array_equal(augment_caller(user, _tone(300), RATE, NEVER, 1), user)


def test_the_result_depends_on_the_seed_alone() -> None:
    user, agent = _tone(440), _tone(300)
    first = augment_caller(user, agent, RATE, ALWAYS, (3, 4))
    assert np.array_equal(first, augment_caller(user.copy(), agent.copy(), RATE, ALWAYS, (3, 4)))
    assert not np.array_equal(first, augment_caller(user, agent, RATE, ALWAYS, (3, 5)))
    assert first.dtype == np.float32
    assert first.shape == user.shape
    assert np.array_equal(user, _tone(440))


@pytest.mark.parametrize("size", [1, 50, 479, 24_001])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_any_length_and_silence_stay_finite_and_in_range(size: int, level: float) -> None:
    user = np.full(size, level, np.float32)
    for seed in range(4):
        out = augment_caller(user, user, RATE, ALWAYS, seed)
        assert out.shape == (size,)
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 1


def test_one_chance_leaves_the_other_effects_as_they_were() -> None:
    user, agent = _tone(440), _tone(300)
    gains = [
        augment_caller(user, agent, RATE, replace(NEVER, gain_chance=1.0, echo_chance=chance), 7) - (chance * 0)
        for chance in (0.0, 1.0)
    ]
    silent = augment_caller(user, 0 * agent, RATE, replace(NEVER, gain_chance=1.0, echo_chance=1.0), 7)
    assert np.array_equal(gains[0], silent)
    assert not np.array_equal(gains[0], gains[1])


def test_gain_is_within_its_range() -> None:
    config = replace(NEVER, gain_chance=1.0, gain_db=(-9.0, -6.0))
    changes = [_db(augment_caller(_tone(440), _tone(300), RATE, config, n)) - _db(_tone(440)) for n in range(8)]
    assert min(changes) >= -9.01
    assert max(changes) <= -5.99
    assert len({round(change, 3) for change in changes}) == 8


def test_noise_has_the_ratio_asked_for_against_the_speech_and_not_the_pauses() -> None:
    user = np.concatenate([_tone(440), np.zeros(3 * RATE, np.float32)])
    assert 20 * np.log10(speech_rms(user)) == pytest.approx(_db(_tone(440)), abs=0.1)
    config = replace(NEVER, noise_chance=1.0, noise_snr_db=(10.0, 10.0))
    for noises in ((), [np.random.default_rng(0).uniform(-1, 1, 5_000).astype(np.float32)]):
        noise = augment_caller(user, user, RATE, config, 3, noises) - user
        assert _db(_tone(440)) - _db(noise) == pytest.approx(10, abs=0.2)
    assert not scaled_noise(np.zeros(10, np.float32), 0.1, 10).any()


def test_a_telephone_line_passes_its_band_and_keeps_the_timing() -> None:
    for hz in (500, 1_000, 3_000):
        out = telephone(_tone(hz), RATE)
        assert out.shape == (RATE,)
        assert _db(out - _tone(hz)) < _db(_tone(hz)) - 25  # quantised by mu-law, neither delayed nor coloured
    for hz in (60, 150, 3_900, 6_000):
        assert _db(telephone(_tone(hz), RATE)) < _db(_tone(hz)) - 20


def test_a_telephone_line_quantises_as_mu_law_does() -> None:
    out = telephone(_tone(1_000, 0.5), 8_000)
    magnitudes = np.unique(np.abs(np.rint(out * 32_768)).astype(int))
    decision_levels = {(((mantissa << 3) + 132) << exponent) - 132 for exponent in range(8) for mantissa in range(16)}
    assert set(magnitudes.tolist()) <= decision_levels


def test_a_room_keeps_the_onset_and_leaves_a_tail() -> None:
    click = np.zeros(RATE, np.float32)
    click[1_000] = 0.5
    out = room(click, RATE, decay_s=0.3, direct_db=6.0, rng=np.random.default_rng(0))
    assert np.abs(out[:1_000]).max() < 1e-6
    assert out[1_000] == pytest.approx(0.5, abs=1e-5)
    tail = out[1_001:]
    assert np.sum(np.square(tail, dtype=np.float64)) == pytest.approx(0.25 * 10**-0.6, rel=0.02)
    early, late = tail[2_000:2_800], tail[6_000:6_800]
    assert _db(early) - _db(late) == pytest.approx(60 * 4_000 / 7_200, abs=3)
    assert np.abs(out[1_000 + 7_200 :]).max() < 1e-6


def test_a_room_is_the_same_as_plain_convolution() -> None:
    rng = np.random.default_rng(1)
    wav = rng.uniform(-1, 1, 5_000).astype(np.float32)
    click = np.zeros(300, np.float32)
    click[0] = 1.0
    taps = room(np.pad(click, (0, 900)), 2_000, 0.2, 3.0, np.random.default_rng(2))[:400]
    wanted = np.convolve(wav, taps)[:5_000]
    np.testing.assert_allclose(room(wav, 2_000, 0.2, 3.0, np.random.default_rng(2)), wanted, atol=1e-5)


def test_an_echo_is_the_agent_later_and_softer() -> None:
    agent = np.random.default_rng(0).uniform(-1, 1, 1_000).astype(np.float32)
    out = echo(agent, 100, -20.0)
    assert not out[:100].any()
    np.testing.assert_allclose(out[100:], 0.1 * agent[:900], rtol=1e-5)
    assert not echo(agent, 2_000, -20.0).any()
    config = replace(NEVER, echo_chance=1.0, echo_delay_ms=(10.0, 10.0), echo_gain_db=(-20.0, -20.0))
    np.testing.assert_allclose(augment_caller(0 * agent, agent, 10_000, config, 0), out, rtol=1e-5)


def test_packets_are_lost_at_the_rate_and_in_bursts() -> None:
    wav = np.ones(20_000 * 20, np.float32)
    rates, bursts, concealed = [], [], 0
    for seed in range(6):
        out = lose_packets(wav, 1_000, 0.08, 100.0, np.random.default_rng(seed)).reshape(-1, 20)
        lost = (out != 1).all(axis=1)
        assert (lost | (out == 1).all(axis=1)).all()  # whole packets
        concealed += bool((out[lost] > 0).any())
        starts = lost & ~np.roll(lost, 1)
        rates.append(lost.mean())
        bursts.append(lost.sum() / starts.sum())
    assert np.mean(rates) == pytest.approx(0.08, rel=0.1)
    assert np.mean(bursts) == pytest.approx(5, rel=0.1)
    assert 0 < concealed < 6
    assert (wav == 1).all()


@pytest.mark.parametrize("change", [{"room_chance": 1.2}, {"loss_chance": -0.1}, {"gain_db": (3.0, -3.0)}])
def test_impossible_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        AugmentConfig(**change)
