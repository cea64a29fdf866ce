"""The making of one call: who speaks when, on two tracks."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from s2s.audio.pcm import int16_to_float
from s2s.data.clips import Clip
from s2s.data.desk import Desk, DeskCall, Reply
from s2s.data.schema import Dialogue
from s2s.data.timeline import Timeline
from s2s.data.utterances import Callers, Speaker, Utterance
from s2s.data.wishes import FOREIGN, YES, Wishes

TRIES = 3  # utterances drawn until one is short enough for the rest of the call


@dataclass(frozen=True)
class CallConfig:
    """How calls go; probabilities are per call or per turn, `..._s` in seconds."""

    sample_rate: int = 24000
    frame_size: int = 960
    longest_s: float = 24.0
    turns: tuple[float, ...] = (0.25, 0.3, 0.25, 0.2)  # shares of calls that mean to have 1, 2, 3 ... turns
    caller_first: float = 0.4
    over_opening: float = 0.15
    barge_in: float = 0.18
    backchannel: float = 0.2
    thinking_pause: float = 0.2
    hesitation: float = 0.0  # share of thinking pauses that stand behind any word
    long_wait: float = 0.05
    nobody_speaks: float = 0.05
    speed: tuple[float, float] = (0.92, 1.08)
    level_db: tuple[float, float] = (-14.0, 2.0)
    gap_s: tuple[float, float] = (0.16, 0.28)
    stop_s: tuple[float, float] = (0.08, 0.12)
    stop_fade_s: float = 0.04

    def __post_init__(self) -> None:
        if self.longest_s < 16:
            raise ValueError(f"longest_s is {self.longest_s}; the shortest calls need 16 s")
        if not self.turns or abs(sum(self.turns) - 1) > 1e-6:
            raise ValueError(f"turns {self.turns} must be shares that add up to 1")


@dataclass(frozen=True)
class Material:
    """What calls are made of; `replies` holds the renditions by (reply key, digits)."""

    desk: Desk
    replies: dict[tuple[str, str], list[Clip]]
    callers: Callers
    wishes: Wishes


class Call:
    """One call with wordings of `split`; all its dice are `rng`. Times in samples."""

    def __init__(self, material: Material, config: CallConfig, split: str, rng: np.random.Generator) -> None:
        self.material, self.config, self.split, self.rng = material, config, split, rng
        self.state = DeskCall(material.desk)
        self.timeline = Timeline(round(config.longest_s * config.sample_rate), config.sample_rate, config.frame_size)
        self.speaker = Speaker(
            voice=material.callers.draw_voice(rng),
            pitch=float(rng.uniform(0.87, 1.15)),
            factor=round(float(rng.uniform(*config.speed)), 2),
            gain=float(10 ** (rng.uniform(*config.level_db) / 20)),
        )
        self.turns: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.spoken: tuple[int, int] | None = None  # the agent's last speech
        self.end = 0

    def run(self, name: str) -> Dialogue:
        """Make the call. `meta` tells its kind, its turns with times and expected replies, and other events."""
        planned = 1 + int(self.rng.choice(len(self.config.turns), p=self.config.turns))
        if self._chance(self.config.caller_first):
            first_at: int | None = self._samples(0.0, 0.5)
            kind = "caller_first"
        else:
            self._say(self.state.open(), self._samples(0.7, 0.9))
            over = self._chance(self.config.over_opening)
            first_at = self._over_reply(0.15, 0.85) if over else self._after_reply(0.3, 1.8)
            kind = "over_opening" if over else "opening"
        if kind == "opening" and self._chance(self.config.nobody_speaks):
            kind = "nobody_speaks"
            first_at = self._wait_in_vain()
        while first_at is not None and len(self.turns) < planned + (4 if self.state.waiting else 0):
            last = len(self.turns) + 1 >= planned
            if not any(self._turn(first_at, last) for _ in range(TRIES)) or self.turns[-1]["action"]:
                break
            first_at = self._next_onset()
        tail = self._samples(0.6, 2.0)
        self.timeline.finish(self.end + tail)
        meta = {
            "split": self.split, "kind": kind, "turns": self.turns, "events": self.events,
            "intents": [turn["intent"] for turn in self.turns], "speaker": self.speaker.voice,
        }  # fmt: skip
        timeline = self.timeline
        return Dialogue(
            name, timeline.user, timeline.agent, timeline.sample_rate, timeline.user_words, timeline.agent_words, meta,
            timeline.actions,
        )  # fmt: skip

    def _turn(self, onset: int, last: bool) -> bool:
        """One utterance from `onset` and its reply; False, and nothing changed, if the call has no room for it."""
        utterance = self._utterance(self.material.wishes.draw(self.state, self.rng, last and bool(self.turns)))
        before = copy.copy(self.state)
        reply = self.state.hear(utterance.intent, utterance.digits)
        clip = self._rendition(reply)
        answer_at = self._answer_at(onset + len(utterance.wav), clip)
        if answer_at + len(clip.pcm) + self._samples(0.6) > self.timeline.longest:
            self.state = before
            return False
        cut = self.spoken is not None and onset < self.spoken[1]
        if cut:
            self._stop_at(onset + self._samples(*self.config.stop_s))
        end = self.timeline.hear(utterance.wav, utterance.words, onset)
        self._say(reply, answer_at, clip)
        self.turns.append(
            {
                "intent": utterance.intent, "text": utterance.text, "digits": utterance.digits,
                "phrasing_split": utterance.split, "voice": utterance.voice, "barge_in": cut,
                "start_s": self._s(onset), "end_s": self._s(end),
                "pauses_s": [[self._s(onset) + a, self._s(onset) + b] for a, b in utterance.pauses_s],
                "reply": reply.key, "reply_text": reply.text, "action": reply.action,
                "reply_start_s": self._s(answer_at), "reply_end_s": self._s(answer_at + len(clip.pcm)),
            }
        )  # fmt: skip
        return True

    def _answer_at(self, end: int, clip: Clip) -> int:
        """A frame boundary such that the reply is first heard within `gap_s` after `end`."""
        low, high = (end + self._samples(gap_s - clip.speech_start_s) for gap_s in self.config.gap_s)
        first, frame_size = self.timeline.on_frame(low), self.config.frame_size
        return first + frame_size * int(self.rng.integers(max(1, 1 + (high - first) // frame_size)))

    def _utterance(self, intent: str) -> Utterance:
        callers, rng = self.material.callers, self.rng
        pause_s = float(rng.uniform(0.3, 1.2)) if self._chance(self.config.thinking_pause) else 0.0
        hesitates = bool(pause_s and self.config.hesitation) and self._chance(self.config.hesitation)
        if pause_s and not hesitates and self._chance(0.7):
            found = callers.two_parts(intent, self.split, self.speaker, pause_s, rng)
            if found is not None:
                return found
        source = YES[1 - YES.index(intent)] if intent in YES and self._chance(0.4) else intent
        source = source if callers.has(source) else intent
        without = FOREIGN.get(self.state.waiting, ()) if intent in (*YES, "confirm_no") else ()
        clip, place = callers.choose(source, self.split, self.speaker, rng, without)
        anywhere = rng if hesitates else None
        return replace(callers.utterance(clip, place, self.speaker, pause_s, anywhere), intent=intent)

    def _rendition(self, reply: Reply) -> Clip:
        renditions = self.material.replies[reply.key, reply.digits]
        return renditions[int(self.rng.integers(len(renditions)))]

    def _say(self, reply: Reply, at: int, clip: Clip | None = None) -> None:
        clip = clip or self._rendition(reply)
        at = self.timeline.on_frame(at)
        self.end = self.timeline.say(int16_to_float(np.asarray(clip.pcm)), clip.words, at)
        self.spoken = (at, at + round(clip.speech_end_s * self.config.sample_rate))
        if reply.action:
            self.timeline.act(reply.action, self.spoken[1])

    def _stop_at(self, at: int) -> None:
        self.timeline.stop_agent(at, self._samples(self.config.stop_fade_s))
        self.events.append({"kind": "agent_stops", "at_s": self._s(at)})

    def _next_onset(self) -> int | None:
        """When the caller speaks again: after the reply, over it, or after a nod during it; None: never again."""
        long_reply = self.spoken is not None and self.spoken[1] - self.spoken[0] > self._samples(1.6)
        if self.turns[-1]["intent"] == "hold_on":
            return self._after_reply(1.5, 6.5)
        if long_reply and self._chance(self.config.barge_in):
            # A question is interrupted late: who answers it has heard what was asked.
            return self._over_reply(0.7, 0.95) if self.state.waiting else self._over_reply(0.15, 0.9)
        if long_reply and self._chance(self.config.backchannel) and self.material.callers.has("backchannel"):
            self._nod()
        if self._chance(self.config.nobody_speaks):
            return self._wait_in_vain()
        return self._after_reply(2.0, 5.0) if self._chance(self.config.long_wait) else self._after_reply(0.6, 2.0)

    def _nod(self) -> None:
        """A short sign of listening over the agent's speech, who goes on."""
        assert self.spoken is not None
        clip, place = self.material.callers.choose("backchannel", self.split, self.speaker, self.rng)
        nod = self.material.callers.utterance(clip, place, self.speaker)
        room = self.spoken[1] - self.spoken[0] - len(nod.wav) - self._samples(0.4)
        if room <= 0:
            return
        at = self.spoken[0] + self._samples(0.2) + int(self.rng.integers(room))
        end = self.timeline.hear(nod.wav, nod.words, at)
        event = {"kind": "backchannel", "text": nod.text, "start_s": self._s(at), "end_s": self._s(end)}
        self.events.append(event)

    def _wait_in_vain(self) -> int | None:
        """Six seconds of silence: the agent asks, and six later hangs up unless the caller speaks."""
        for _ in range(2):
            assert self.spoken is not None
            at = self.timeline.on_frame(self.spoken[1] + self._samples(6.0))
            before = copy.copy(self.state)
            reply = self.state.silence()
            clip = self._rendition(reply)
            if at + len(clip.pcm) + self._samples(0.6) > self.timeline.longest:
                self.state = before
                return None
            self._say(reply, at, clip)
            self.events.append({"kind": reply.key, "start_s": self._s(at), "reply_text": reply.text})
            if reply.action:
                return None
            if self._chance(0.5):
                return self._after_reply(0.4, 2.0)
        return None

    def _after_reply(self, low_s: float, high_s: float) -> int:
        assert self.spoken is not None
        return self.spoken[1] + self._samples(low_s, high_s)

    def _over_reply(self, low: float, high: float) -> int:
        """A time within the agent's last speech, between these shares of it."""
        assert self.spoken is not None
        start, end = self.spoken
        return start + int(self.rng.uniform(low, high) * (end - start))

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _samples(self, low_s: float, high_s: float | None = None) -> int:
        seconds = low_s if high_s is None else self.rng.uniform(low_s, high_s)
        return round(float(seconds) * self.config.sample_rate)

    def _s(self, at: int) -> float:
        return round(at / self.config.sample_rate, 4)
