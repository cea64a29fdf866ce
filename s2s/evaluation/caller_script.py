"""Caller scripts: what a caller of the support desk will do in a call, and which reply is due to each of it.

A script is a function of the material, its plan and the seed. It holds what the agent should say if it has said what it
should so far: a caller does not follow an agent that goes astray, which costs it the rest of the call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from s2s.data.augment import room
from s2s.data.desk import Desk, DeskCall, Reply, speak_digits
from s2s.data.utterances import Callers, Speaker, Utterance
from s2s.data.wishes import FOREIGN, WEIGHTS, Wishes
from s2s.evaluation.given_calls import LEVEL_DB, normalise
from s2s.evaluation.reactive_caller import Kind, Move, When

Plan = Literal["single", "talk", "pause", "barge_in", "over_opening", "backchannel", "side_speech", "noise", "silence",
               "unclear", "ladder", "digits", "accent"]  # fmt: skip
PLANS: tuple[Plan, ...] = get_args(Plan)

# What was said before something that makes sense in one context alone.
LEADS = {"number": ("track",), "confirm_number": ("give_number",), "zip": ("change_address",),
         "confirm_zip": ("change_address", "give_zip"), "part_of_day": ("redeliver",)}  # fmt: skip
_EXTRA_INTENTS = ("track_with_number", "filler_unclear")
_NO_INTERRUPTION = ("repeat", "hold_on", "out_of_scope", "hello", "thanks", "goodbye", "human")
# How long the agent's voice needs: what is spoken over must go on for two seconds more, or it would end by itself.
_S_PER_LETTER, _S_PER_SENTENCE = 0.057, 0.30
_REST_S, _FIRST_S = 2.1, 0.3
_LEAST_INTERRUPTION_S = 1.2
_SIDE_DB, _NOISE_DB = -15.0, -10.0
_TRIES = 12


@dataclass(frozen=True)
class Act:
    """A move and what it asks for.

    reply: what is due (None: nothing new); judged: it is not interrupted; target: it is the one that a call of a single
    turn is about; pauses_s: (start_s, end_s) inside of what is said.
    """

    move: Move
    intent: str = ""
    text: str = ""
    digits: str = ""
    reply: Reply | None = None
    judged: bool = True
    target: bool = False
    pauses_s: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Script:
    """A call as its caller means it to go; opening: what the agent says first (None: it waits), and if it is judged."""

    name: str
    plan: Plan
    acts: tuple[Act, ...]
    opening: Reply | None = None
    opening_judged: bool = True
    seed: int = 0
    group: str = ""


@dataclass(frozen=True)
class Recording:
    """Somebody's speech [N] with its words; group: of speakers."""

    wav: np.ndarray
    text: str
    group: str = ""


@dataclass(frozen=True)
class ScriptMaterial:
    """What scripts are made of; split: whose wordings. digits: recordings by digit; accents: read sentences."""

    desk: Desk
    callers: Callers
    split: str = "train"
    noises: Sequence[np.ndarray] = ()
    digits: Mapping[str, np.ndarray] = field(default_factory=dict)
    accents: Sequence[Recording] = ()


class ScriptWriter:
    """Writes script number `index` of a plan."""

    def __init__(self, material: ScriptMaterial):
        self.material = material
        self.wishes = Wishes(material.desk, WEIGHTS, material.callers.has)
        desk = material.desk
        self.intents = [n for n in (*desk.intents, *_EXTRA_INTENTS) if material.callers.has(n)]
        free = [n for n in self.intents if n in desk.intents and not desk.intents[n].contexts]
        self.interrupting = [n for n in free if n not in _NO_INTERRUPTION and n != "give_number"]
        plain = [n for n in self.interrupting if not desk.intents[n].ask and not desk.intents[n].action]
        self.long_replies = [n for n in plain if reply_seconds(desk.intents[n].reply) > _REST_S + _FIRST_S]

    def write(self, plan: Plan, index: int, seed: int) -> Script:
        """Raises ValueError where the material has nothing for the plan."""
        rng = np.random.default_rng((seed, PLANS.index(plan), index))
        draft = _Draft(self, rng)
        plans: dict[Plan, Callable[[_Draft, int], None]] = {
            "single": _single, "talk": _talk, "pause": _pause, "barge_in": _barge_in, "over_opening": _over_opening,
            "backchannel": _overlaps, "side_speech": _overlaps, "noise": _overlaps, "silence": _silence,
            "unclear": _unclear, "ladder": _ladder, "digits": _digits, "accent": _accent,
        }  # fmt: skip
        draft.plan = plan
        plans[plan](draft, index)
        return Script(
            f"{plan}-{index:03}", plan, tuple(draft.acts), draft.opening, draft.opening_judged,
            int(rng.integers(1 << 31)), draft.group,
        )  # fmt: skip


def reply_seconds(text: str) -> float:
    """How long the agent's voice needs for a text, about."""
    return _S_PER_LETTER * len(re.sub(r"\W", "", text)) + _S_PER_SENTENCE * len(re.findall(r"[.?!](?:\s|$)", text))


class _Draft:
    """A script in the making."""

    def __init__(self, writer: ScriptWriter, rng: np.random.Generator):
        self.writer, self.rng, self.material = writer, rng, writer.material
        self.state = DeskCall(self.material.desk)
        self.acts: list[Act] = []
        self.opening: Reply | None = None
        self.opening_judged = True
        self.plan: Plan = "single"
        self.group = ""
        self.speaker = Speaker(
            self.material.callers.draw_voice(rng),
            float(rng.uniform(0.87, 1.15)),
            1.0,
            float(10 ** (rng.uniform(-8.0, 0.0) / 20)),
        )

    def open(self) -> None:
        self.opening = self.state.open()

    def turn(self, intent: str, target: bool = False, pause: bool = False, over: bool = False,
             delay_s: float | None = None) -> None:  # fmt: skip
        """Say something of this intent: when the agent has finished, or over its reply."""
        said = self._utterance(intent, pause, _LEAST_INTERRUPTION_S if over else 0.0)
        when, at_s = self._when(over, delay_s)
        if over and self.acts:
            self.acts[-1] = replace(self.acts[-1], judged=False)
        elif over:
            self.opening_judged = False
        reply = self.state.hear(intent, said.digits)
        move = Move("turn", said.wav, when, at_s)
        self.acts.append(Act(move, intent, said.text, said.digits, reply, target=target, pauses_s=said.pauses_s))

    def say(self, intent: str, wav: np.ndarray, text: str, digits: str, target: bool = False) -> None:
        """Say wav [N], which is not from the callers' clips."""
        reply = self.state.hear(intent, digits) if intent else None
        self.acts.append(Act(Move("turn", wav, *self._when(False, None)), intent, text, digits, reply, target=target))

    def overlap(self, kind: Kind) -> None:
        """Make a sound over the agent's reply, which should go on."""
        wav, text = self._sound(kind)
        self.acts.append(Act(Move(kind, wav, *self._when(True, None)), "", text))

    def keep_silent(self) -> Reply:
        reply = self.state.silence()
        self.acts.append(Act(Move("silence", np.zeros(0, np.float32), "after", 0.6), "silence", reply=reply))
        return reply

    def _when(self, over: bool, delay_s: float | None) -> tuple[When, float]:
        last = self.state.last_reply
        if last is None:
            return "start", float(self.rng.uniform(0.2, 0.8))
        if over:
            return "over", float(self.rng.uniform(_FIRST_S, max(_FIRST_S + 0.05, reply_seconds(last.text) - _REST_S)))
        return "after", float(self.rng.uniform(0.7, 1.6)) if delay_s is None else delay_s

    def _utterance(self, intent: str, pause: bool, least_s: float) -> Utterance:
        callers, rng, split = self.material.callers, self.rng, self.material.split
        without = FOREIGN.get(self.state.waiting, ()) if intent.startswith("confirm_") else ()
        found: list[Utterance] = []
        for _ in range(_TRIES):
            pause_s = float(rng.uniform(0.4, 1.2)) if pause else 0.0
            said = callers.two_parts(intent, split, self.speaker, pause_s, rng) if pause else None
            if said is None:
                clip, place = callers.choose(intent, split, self.speaker, rng, without)
                said = callers.utterance(clip, place, self.speaker, pause_s)
            found.append(said)
            if len(said.wav) >= least_s * callers.sample_rate and (said.pauses_s or not pause):
                break
        # Wordings are few: where none is as wanted, the longest comes nearest.
        return found[-1] if not least_s else max(found, key=lambda each: len(each.wav))

    def _sound(self, kind: Kind) -> tuple[np.ndarray, str]:
        callers, rng, rate = self.material.callers, self.rng, self.material.callers.sample_rate
        if kind == "noise":
            return self._noise(), "noise"
        intent = "backchannel" if kind == "backchannel" else "out_of_scope"
        clip, place = callers.choose(intent, self.material.split, self.speaker, rng)
        said = callers.utterance(clip, place, self.speaker)
        if kind == "backchannel":
            return said.wav, said.text
        return normalise(room(said.wav, rate, 0.4, 3.0, rng), rate, LEVEL_DB + _SIDE_DB), said.text

    def _noise(self) -> np.ndarray:
        """Most of a second of the loudest part of a noise."""
        rate, rng, noises = self.material.callers.sample_rate, self.rng, self.material.noises
        size = round(float(rng.uniform(0.4, 0.9)) * rate)
        if not noises:
            wav = np.cumsum(rng.standard_normal(size)).astype(np.float32)
            wav -= wav.mean()
        else:
            noise = np.asarray(noises[int(rng.integers(len(noises)))], np.float32)
            energy = np.convolve(np.square(noise), np.ones(rate // 10), "valid")
            wav = np.resize(noise[max(0, int(np.argmax(energy)) - rate // 20) :], size).copy()
        wav *= 10 ** ((LEVEL_DB + _NOISE_DB) / 20) / max(float(np.sqrt(np.mean(np.square(wav)))), 1e-5)
        ramp = np.minimum(1.0, np.arange(1, size + 1) / (0.01 * rate))
        return np.clip(wav * ramp * ramp[::-1], -1, 1).astype(np.float32)

    def pick(self, names: Sequence[str]) -> str:
        return names[int(self.rng.integers(len(names)))]


def _single(draft: _Draft, index: int) -> None:
    """One turn that counts, of every intent in turn, with what must be said before it."""
    intents, desk = draft.writer.intents, draft.material.desk
    intent, again = intents[index % len(intents)], index // len(intents)
    if (index + again) % 2:
        draft.open()
    contexts = desk.intents[intent].contexts if intent in desk.intents else ()
    leads = LEADS[draft.pick(contexts)] if contexts else ("opening_hours",) if intent == "repeat" else ()
    for lead in leads:
        draft.turn(lead)
    draft.turn(intent, target=True)


def _talk(draft: _Draft, index: int) -> None:
    """A whole call of three or four wishes and what they lead to, or until the agent hands off or hangs up."""
    if index % 3:
        draft.open()
    planned = int(draft.rng.integers(3, 5))
    while len(draft.acts) < planned + (3 if draft.state.waiting else 0):
        intent = draft.writer.wishes.draw(draft.state, draft.rng, len(draft.acts) + 1 >= planned)
        slow = bool(draft.acts) and draft.acts[-1].intent == "hold_on"
        draft.turn(intent, delay_s=float(draft.rng.uniform(1.5, 5.0)) if slow else None)
        reply = draft.acts[-1].reply
        if reply is not None and reply.action:
            return


def _pause(draft: _Draft, index: int) -> None:
    """Three turns, each with a thinking pause."""
    for intent in draft.rng.choice(draft.writer.interrupting, 3, replace=False):
        draft.turn(str(intent), pause=True)


def _barge_in(draft: _Draft, index: int) -> None:
    """Twice: a question, and another one over the reply to it."""
    for _ in range(2):
        draft.turn(draft.pick(draft.writer.long_replies))
        draft.turn(draft.pick(draft.writer.interrupting), over=True)


def _over_opening(draft: _Draft, index: int) -> None:
    draft.open()
    draft.turn(draft.pick(draft.writer.interrupting), over=True)


def _overlaps(draft: _Draft, index: int) -> None:
    """Three turns with a sound over each reply."""
    kind: Kind = draft.plan  # type: ignore[assignment]
    for _ in range(3):
        draft.turn(draft.pick(draft.writer.long_replies))
        draft.overlap(kind)


def _silence(draft: _Draft, index: int) -> None:
    """Nothing is said for six seconds, and then something, or for six more."""
    if index % 2:
        draft.open()
    else:
        draft.turn(draft.pick(draft.writer.long_replies))
    draft.keep_silent()
    if index % 4 < 2:
        draft.turn(draft.pick(draft.writer.interrupting))
    else:
        draft.keep_silent()


def _unclear(draft: _Draft, index: int) -> None:
    """Mumbling, and then something clear."""
    draft.open()
    draft.turn("filler_unclear")
    draft.turn(draft.pick(draft.writer.interrupting))


def _ladder(draft: _Draft, index: int) -> None:
    """Twice in a row nothing that the desk can help with."""
    if index % 2:
        draft.open()
    pairs = [("filler_unclear", "filler_unclear"), ("out_of_scope", "filler_unclear"),
             ("filler_unclear", "out_of_scope"), ("out_of_scope", "out_of_scope")]  # fmt: skip
    for intent in pairs[index % len(pairs)]:
        draft.turn(intent)


def _digits(draft: _Draft, index: int) -> None:
    """A number or zip code put together from recordings of single digits."""
    prompts, rate = draft.material.digits, draft.material.callers.sample_rate
    if not prompts:
        raise ValueError("there are no recordings of digits")
    intent = "give_zip" if index % 3 == 2 else "give_number"
    if intent == "give_zip":
        draft.turn("change_address")
    elif index % 3:
        draft.turn("track")
    digits = "".join(str(d) for d in draft.rng.integers(10, size=5 if intent == "give_zip" else 4))
    parts: list[np.ndarray] = []
    for digit in digits:
        parts += [prompts[digit], np.zeros(round(float(draft.rng.uniform(0.03, 0.12)) * rate), np.float32)]
    wav = normalise(np.concatenate(parts[:-1]), rate, LEVEL_DB)
    draft.say(intent, wav, speak_digits(digits), digits, target=True)


def _accent(draft: _Draft, index: int) -> None:
    """A sentence to be written down, whatever it is about."""
    if not draft.material.accents:
        raise ValueError("there are no recordings of accents")
    recording = draft.material.accents[index % len(draft.material.accents)]
    draft.group = recording.group
    draft.say("", normalise(recording.wav, draft.material.callers.sample_rate, LEVEL_DB), recording.text, "")
