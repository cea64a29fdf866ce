"""Who has the floor: answers out of continuous sound, ducking first, stopping on confirmation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.gateway.floor import Finished, Floor, Started, Words
from s2s.gateway.turns import TurnDetection, TurnDetector
from s2s.gateway.voice import HOP_MS, Hop, VoiceActivity
from tests.gateway.serving import silence, speech

RATE, STEP = 24000, 960
TONE = np.full(STEP, 6000, dtype=np.int16)
QUIET = np.zeros(STEP, dtype=np.int16)


@dataclass
class Play:
    """Moves both clocks by 40 ms at a time: first the agent's step, then the caller's hops."""

    floor: Floor = field(default_factory=lambda: Floor(RATE))
    turns: TurnDetector = field(default_factory=lambda: TurnDetector(TurnDetection()))
    now_ms: int = 0
    hops: int = 0
    out: list[float] = field(default_factory=list)
    events: list[tuple[str, int]] = field(default_factory=list)

    def run(self, milliseconds: int, agent: bool, caller: bool, interrupts: bool = True, noise: bool = False) -> None:
        for _ in range(milliseconds // 40):
            pcm, started, finished = self.floor.agent(TONE if agent else QUIET, self.now_ms)
            self.out.append(float(np.abs(pcm[STEP // 2 :]).max()))
            self.events += [("started", self.now_ms)] if started == Started() else []
            self.events += [("finished", self.now_ms)] if isinstance(finished, Finished) else []
            self.now_ms += 40
            while (self.hops + 1) * HOP_MS <= self.now_ms:
                self.hops += 1
                hop = Hop(1.0 if caller else 0.0, -20.0 if caller or noise else -80.0, self.hops * HOP_MS)
                if self.floor.caller(self.turns.push(hop), interrupts):
                    assert self.floor.cancel("turn_detected") is not None
                    self.events.append(("stopped", self.now_ms))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def test_an_answer_is_the_sound_between_two_pauses() -> None:
    play = Play()
    play.run(400, agent=False, caller=False)
    play.run(400, agent=True, caller=False)
    play.run(400, agent=False, caller=False)  # a breath
    play.run(400, agent=True, caller=False)
    play.run(1000, agent=False, caller=False)
    assert play.events == [("started", 400), ("finished", 400 + 1200 + 600 - 40)]
    assert max(play.out) == 6000


def test_the_agent_is_turned_down_at_once_and_stopped_when_the_caller_goes_on() -> None:
    play = Play()
    play.run(800, agent=True, caller=False)
    before = len(play.out)
    play.run(1200, agent=True, caller=True)
    assert play.names == ["started", "stopped"]
    stopped_ms = play.events[-1][1]
    assert 1400 <= stopped_ms <= 1480
    ducked = play.out[before + 1 : stopped_ms // 40]
    assert max(ducked) < 6000 / 10**1.5, "more than 30 dB down while it is not sure"
    assert max(play.out[stopped_ms // 40 :]) == 0
    assert play.floor.shut and not play.floor.answering


@given(st.integers(2, 11))
def test_a_backchannel_below_half_a_second_does_not_stop_the_agent(steps: int) -> None:
    play = Play()
    play.run(800, agent=True, caller=False)
    play.run(40 * steps, agent=True, caller=True)
    play.run(400, agent=True, caller=False)
    assert play.names == ["started"]
    assert play.out[-1] == 6000, "back at its level"
    down = sum(level < 600 for level in play.out)
    assert 40 * down <= 700, "back within 0.7 s: it has not yielded"


def test_a_noise_turns_the_agent_down_for_a_moment_only() -> None:
    play = Play()
    play.run(800, agent=True, caller=False)
    play.run(2000, agent=True, caller=False, noise=True)
    assert play.names == ["started"]
    down = [level < 600 for level in play.out]
    assert 120 <= 40 * sum(down) <= 320, "until it would have been speech"
    assert not any(down[-40:]), "a noise that goes on is known"


def test_a_caller_who_speaks_first_is_not_interrupting() -> None:
    """An echo of the caller is such an agent."""
    play = Play()
    play.run(80, agent=False, caller=True)
    play.run(2000, agent=True, caller=True)
    assert play.names == ["started"]
    assert play.out[-1] == 6000


@pytest.mark.parametrize("name", ["refund", "opening_hours"])
def test_the_first_sound_of_speech_turns_the_agent_down_within_two_hops_and_a_packet(
    name: str, rng: np.random.Generator
) -> None:
    """The barge-in budget is 150 ms in all; the rest of it is one step of the agent and the listener's buffer."""
    delays = []
    for _ in range(10):
        caller = np.concatenate([silence(1.0)[: 24000 - int(rng.integers(1000))], speech(name)[:24000]])
        first_ms = 1000 * float(np.flatnonzero(np.abs(caller) > 1000)[0]) / RATE
        floor, turns, voice = Floor(RATE), TurnDetector(TurnDetection()), VoiceActivity(RATE)
        for start in range(0, len(caller), 480):
            if start % STEP == 0:
                floor.agent(TONE, 1000 * start // RATE)
            for hop in voice.push(caller[start : start + 480]):
                floor.caller(turns.push(hop), True)
            if floor.ducked:
                delays.append(1000 * (start + 480) / RATE - first_ms)
                break
    assert len(delays) == 10 and max(delays) <= 2 * HOP_MS + 20


@pytest.mark.parametrize("delay_ms", [40, 80, 120])
def test_an_echo_is_not_interrupted_by_the_caller_going_on(delay_ms: int) -> None:
    play = Play()
    spoken = [True] * 20 + [False] * 8 + [True] * 20 + [False] * 3 + [True] * 20
    for now, said in enumerate(spoken):
        before = now - delay_ms // 40
        play.run(40, agent=before >= 0 and spoken[before], caller=said)
    assert play.names == ["started"]
    assert {level for level in play.out if level} == {6000}


def test_a_caller_who_goes_on_after_the_agent_began_interrupts() -> None:
    play = Play()
    play.run(800, agent=False, caller=True)
    play.run(80, agent=False, caller=False)
    play.run(240, agent=True, caller=False)
    assert play.turns.in_turn
    play.run(800, agent=True, caller=True)
    assert play.names == ["started", "stopped"]


def test_interruptions_may_be_forbidden() -> None:
    play = Play()
    play.run(800, agent=True, caller=False)
    play.run(1200, agent=True, caller=True, interrupts=False)
    assert play.names == ["started"] and min(play.out) == 6000


def test_the_floor_opens_when_the_agent_pauses() -> None:
    play = Play()
    play.run(800, agent=True, caller=False)
    play.run(1200, agent=True, caller=True)
    play.run(200, agent=False, caller=True)
    play.run(400, agent=True, caller=True)
    assert play.names == ["started", "stopped"], "the caller still speaks"
    play.run(200, agent=True, caller=False)
    assert play.names == ["started", "stopped", "started"]


def test_a_caller_whose_audio_breaks_off_does_not_silence_the_agent() -> None:
    play = Play()
    play.run(800, agent=True, caller=False)
    play.run(160, agent=True, caller=True)
    levels = [float(np.abs(play.floor.agent(TONE, play.now_ms)[0]).max()) for _ in range(20)]
    assert levels[0] < 600 and levels[-1] == 6000


def test_the_floor_opens_when_the_caller_has_long_finished() -> None:
    play = Play()
    play.run(800, agent=True, caller=False)
    play.run(1200, agent=True, caller=True)
    play.run(1400, agent=True, caller=False)
    assert play.names == ["started", "stopped", "started"]
    assert play.events[-1][1] == pytest.approx(2000 + 1000, abs=80)


def test_a_cancelled_answer_does_not_come_back_by_itself() -> None:
    floor = Floor(RATE)
    floor.agent(TONE, 0)
    assert floor.cancel("client_cancelled") == 40
    assert floor.cancel("client_cancelled") is None
    for _ in range(100):
        pcm, started, _ = floor.agent(TONE, 0)
        assert started is None
    assert not pcm.any()
    floor.request()
    assert floor.answering and floor.requested
    pcm, started, finished = floor.agent(TONE, 0)
    assert pcm.any() and started is None and finished is None


def test_an_answer_asked_for_that_never_comes_is_over_in_the_end() -> None:
    play = Play()
    play.floor.request()
    play.run(9000, agent=False, caller=False)
    assert play.names == [] and play.floor.answering
    play.run(2000, agent=False, caller=False)
    assert play.names == ["finished"]


def test_an_answer_asked_for_while_one_is_given_is_that_one() -> None:
    floor = Floor(RATE)
    floor.agent(TONE, 0)
    assert floor.answering and not floor.requested
    floor.request()
    assert floor.requested and floor.played_ms == 40


def test_words_wait_for_their_answer_within_limits() -> None:
    words = Words(max_chars=10)
    for number in range(8):
        words.add("abc", number)
    assert list(words.take()) == [("abc", 5), ("abc", 6), ("abc", 7)]
    assert list(words.take()) == []
    words.add("x", 1)
    words.drop()
    assert list(words.take()) == []


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 30)), max_size=12), st.integers(0, 3))
def test_answers_never_overlap_and_end_once(parts: list[tuple[bool, bool, int]], seed: int) -> None:
    play = Play()
    for agent, caller, steps in parts:
        play.run(40 * steps, agent, caller)
        if seed == 1 and not play.floor.requested:
            was = play.floor.answering
            play.floor.request()
            play.events += [] if was else [("started", play.now_ms)]
    play.run(12000, agent=False, caller=False)
    assert play.names[::2] == ["started"] * (len(play.names) // 2)
    assert set(play.names[1::2]) <= {"finished", "stopped"}
    assert len(play.names) % 2 == 0
