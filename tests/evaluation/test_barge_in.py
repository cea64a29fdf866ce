"""The caller who speaks over the agent, and what its recordings show."""

from collections.abc import Callable

import numpy as np
import pytest

from s2s.evaluation.audibility import speech_level_db
from s2s.evaluation.barge_in import (
    KINDS,
    MAX_BACKCHANNEL_S,
    MIX,
    BargeInTalk,
    Clip,
    Outcome,
    Overlap,
    default_clips,
    outcomes,
    report,
)
from s2s.evaluation.given_calls import LEVEL_DB, SHIPPED, read_given_calls
from tests.evaluation.tones import RATE, track

PACKET = RATE // 50


def burst(seconds: float) -> np.ndarray:
    return track(seconds, (0.0, seconds))


def converse(
    talk: BargeInTalk, agent: Callable[[int, int], bool], seconds: float = 60
) -> tuple[np.ndarray, np.ndarray]:
    """Let the caller talk with an agent of whom `agent(start, question ended)` says whether it speaks."""
    said, spoken = [np.zeros(0, np.int16)], [np.zeros(PACKET, np.int16)]
    ended = -1
    for start in range(0, round(seconds * RATE), PACKET):
        packet = talk.say(start, spoken[-1])
        if packet is None:
            break
        assert packet.shape == (PACKET,) and packet.dtype == np.int16
        said.append(packet)
        if talk._state == "wait" and packet.any():
            ended = start + PACKET
        tone = np.rint(8000 * np.sin(np.arange(PACKET) * 0.3)).astype(np.int16)
        spoken.append(tone if agent(start, ended) else np.zeros(PACKET, np.int16))
    return np.concatenate(said), np.concatenate(spoken[1:])


def answering(start: int, ended: int) -> bool:
    return ended >= 0 and RATE // 5 <= start - ended < 5 * RATE


def test_each_clip_is_said_over_the_agent_once() -> None:
    clips = [Clip("interruption", "a", burst(1.0)), Clip("backchannel", "b", burst(0.3))]
    talk = BargeInTalk(burst(0.5), clips, RATE, seed=1)
    said, agent = converse(talk, answering)
    assert [(o.kind, o.clip) for o in talk.overlaps] == [("interruption", "a"), ("backchannel", "b")]
    for overlap, clip in zip(talk.overlaps, clips, strict=True):
        assert overlap.start % PACKET == 0
        clip_said = said[overlap.start : overlap.start + len(clip.wav)] / 32768
        np.testing.assert_allclose(clip_said, clip.wav, atol=1e-4)
        before = agent[overlap.start - round(0.7 * RATE) : overlap.start]
        assert before.any() and overlap.until > overlap.start
    assert talk.unanswered == 0


def test_an_agent_that_never_speaks_is_not_waited_for_for_ever() -> None:
    talk = BargeInTalk(burst(0.5), [Clip("noise", "n", burst(1.0))] * 2, RATE)
    said, _ = converse(talk, lambda start, ended: False)
    assert (talk.overlaps, talk.unanswered) == ([], 2)
    assert len(said) < 20 * RATE


def test_an_agent_that_never_stops_is_asked_on() -> None:
    talk = BargeInTalk(burst(0.5), [Clip("noise", "n", burst(1.0))] * 2, RATE)
    converse(talk, lambda start, ended: True, seconds=120)
    assert len(talk.overlaps) == 2


def test_stops_at_known_places() -> None:
    agent = track(20, (1, 3.12), (5, 9), (11, 12.1), (12.4, 15), (16, 16.5))
    overlaps = [
        Overlap("interruption", "stopped after 120 ms", 3 * RATE, 5 * RATE),
        Overlap("interruption", "went on for 3 s", 6 * RATE, 10 * RATE),
        Overlap("backchannel", "ducked and came back", 12 * RATE, 16 * RATE),
        Overlap("noise", "over nothing", 18 * RATE, 20 * RATE),
    ]
    found = outcomes(agent, RATE, overlaps)
    assert [(o.stop_ms, o.yielded) for o in found] == [(120.0, True), (3000.0, False), (3000.0, False), (None, False)]
    result = report(found, failures=1)
    assert (result["events"], result["lost"], result["not_over_speech"]) == (4, 1, 1)
    assert result["stop_ms"] == {
        "n": 3, "failures": 2, "mean": 120.0, "p50": None, "p90": None, "p95": None, "p99": None, "max": None,
    }  # fmt: skip
    assert (result["yield"]["successes"], result["yield"]["n"]) == (1, 2)
    assert (result["selectivity"]["backchannel"]["successes"], result["selectivity"]["backchannel"]["n"]) == (1, 1)
    assert result["selectivity"]["noise"]["n"] == 0


def test_what_a_backchannel_stops_counts_against_selectivity() -> None:
    found = [Outcome("backchannel", "", 90.0, True), Outcome("backchannel", "", 4000.0, False)]
    assert report(found)["selectivity"]["backchannel"]["rate"] == 0.5


def test_clips_of_every_kind_from_the_shipped_recordings() -> None:
    clips = default_clips(read_given_calls(SHIPPED, RATE))
    assert {clip.kind for clip in clips} == set(KINDS) == set(MIX)
    for clip in clips:
        seconds, level = len(clip.wav) / RATE, speech_level_db(clip.wav, RATE)
        assert level is not None and np.abs(clip.wav).max() < 1
        if clip.kind == "interruption":
            assert seconds > 1 and level == pytest.approx(LEVEL_DB, abs=1)
        elif clip.kind == "backchannel":
            assert 0.15 <= seconds < MAX_BACKCHANNEL_S
        else:
            assert level < LEVEL_DB - 5
    again = default_clips(read_given_calls(SHIPPED, RATE))
    assert all((a.wav == b.wav).all() for a, b in zip(clips, again, strict=True))
