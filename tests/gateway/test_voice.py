"""The detector on real speech, silence and noise; the turns it makes."""

from __future__ import annotations

import time

import numpy as np
import pytest

from s2s.audio.pcm import mulaw_decode, mulaw_encode
from s2s.audio.resample import resample
from s2s.gateway.turns import Heard, TurnDetection, TurnDetector
from s2s.gateway.voice import HOP_MS, Hop, VoiceActivity
from tests.gateway.serving import RATE, silence, speech


def hops(pcm: np.ndarray, packet: int = 480) -> list[Hop]:
    voice = VoiceActivity(RATE)
    return [hop for start in range(0, len(pcm), packet) for hop in voice.push(pcm[start : start + packet])]


def turns(found: list[Hop], detection: TurnDetection | None = None) -> list[Heard]:
    detector = TurnDetector(detection or TurnDetection(prefix_padding_ms=0))
    heard = [detector.push(hop) for hop in found]
    return [each for each in heard if each.started_ms is not None or each.stopped_ms is not None]


def first_sound_ms(pcm: np.ndarray) -> float:
    return 1000 * float(np.flatnonzero(np.abs(pcm) > 1000)[0]) / RATE


@pytest.mark.parametrize("name", ["refund", "opening_hours"])
def test_speech_is_found_within_three_hops(name: str) -> None:
    pcm = np.concatenate([silence(1.0), speech(name), silence(1.0)])
    started, stopped = turns(hops(pcm))
    assert 0 <= started.started_ms + HOP_MS - first_sound_ms(pcm) <= 4 * HOP_MS  # type: ignore[operator]
    last_ms = 1000 * float(np.flatnonzero(np.abs(pcm) > 1000)[-1]) / RATE
    assert stopped.stopped_ms == pytest.approx(last_ms, abs=200)


def test_speech_is_found_through_a_telephone() -> None:
    narrow = resample(speech().astype(np.float32) / 32768, RATE, 8000)
    law = mulaw_decode(mulaw_encode(np.rint(narrow * 32767).astype(np.int16)))
    wide = np.rint(resample(law.astype(np.float32) / 32768, 8000, RATE) * 32767).astype(np.int16)
    assert len(turns(hops(np.concatenate([silence(0.5), wide, silence(1.0)])))) == 2


def test_silence_and_noise_are_no_turn(rng: np.random.Generator) -> None:
    noise = (rng.standard_normal(3 * RATE) * 1000).astype(np.int16)
    assert turns(hops(silence(1.0))) == []
    assert turns(hops(noise)) == []


def test_packets_of_any_size_are_the_same(rng: np.random.Generator) -> None:
    pcm = speech()
    assert hops(pcm, 480) == hops(pcm, 77) == hops(pcm, len(pcm))


def test_silence_costs_nothing_and_speech_little() -> None:
    voice = VoiceActivity(RATE)
    start_s = time.thread_time()
    for _ in range(50):
        list(voice.push(silence(0.02)))
    assert time.thread_time() - start_s < 0.5


def test_calls_do_not_share_what_they_heard() -> None:
    one, other = VoiceActivity(RATE), VoiceActivity(RATE)
    list(one.push(speech()))
    assert list(other.push(speech("opening_hours"))) == hops(speech("opening_hours"))


def test_a_turn_ends_after_its_silence_and_begins_with_its_padding() -> None:
    detector = TurnDetector(TurnDetection(threshold=0.5, prefix_padding_ms=100, silence_duration_ms=96))
    loud = [
        detector.push(Hop(p, -30.0 if p else -80.0, HOP_MS * (n + 11)))
        for n, p in enumerate([0, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0])
    ]
    assert [each.started_ms for each in loud] == [None, 11 * HOP_MS - 100, None, None, None, None, None]
    assert [each.speech for each in loud] == [False, True, True, False, False, False, False]
    assert [each.stopped_ms for each in loud].index(13 * HOP_MS) == 5
