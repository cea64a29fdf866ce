"""A caller's turn made from clips: choice of wording and voice, thinking pauses, pitch and tempo, level."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from s2s.audio.pcm import int16_to_float
from s2s.audio.resample import resample
from s2s.data.clips import Clip
from s2s.data.desk import split_of
from s2s.data.schema import Word

SPLITS = ("train", "validation", "test")
OWN_VOICE = 0.7  # how often a wording is taken that there is in the caller's voice, where there is one
NEAR_S = 0.08  # how far from where a word is thought to end a hesitation may stand
QUIET_PLACES = 3  # of those of a clip, from which one is drawn


@dataclass(frozen=True)
class Utterance:
    """wav float32 [N] that is cut to its speech: `words` and `pauses_s` count from its first sample."""

    wav: np.ndarray
    words: tuple[Word, ...]
    text: str
    intent: str
    digits: str
    split: str
    voice: str
    pauses_s: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Speaker:
    """Who calls: clips of this voice and about this pitch are preferred; all play at speed `factor`, `gain` as loud."""

    voice: str
    pitch: float
    factor: float
    gain: float


class Callers:
    """Clips of callers by split, intent and wording. A wording of one split is never in another one."""

    def __init__(self, clips: Iterable[Clip], sample_rate: int, known_digits: Iterable[str]) -> None:
        """`known_digits` are those that the agent can read back; other numbers are left out."""
        self.sample_rate = sample_rate
        known = set(known_digits)
        self.by_text: dict[tuple[str, str], dict[str, list[Clip]]] = {}
        self.halves: dict[tuple[str, str], dict[tuple[str, str], tuple[list[Clip], list[Clip]]]] = {}
        for clip in clips:
            if clip.digits and clip.digits not in known:
                continue
            place = split_of_clip(clip), clip.intent
            if clip.part:
                self.halves.setdefault(place, {}).setdefault(_whole(clip), ([], []))[clip.part - 1].append(clip)
            else:
                self.by_text.setdefault(place, {}).setdefault(clip.text, []).append(clip)
        self._texts_of: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        counts: Counter[str] = Counter()
        for (split, intent), texts in self.by_text.items():
            for text in sorted(texts):
                counts.update(_timbre(clip.voice) for clip in texts[text])
                for voice in {_timbre(clip.voice) for clip in texts[text]}:
                    self._texts_of[split, intent, voice].append(text)
        if not counts:
            raise ValueError("no caller clips whose numbers the agent can read back")
        self.voices = sorted(counts)
        weights = np.sqrt([counts[voice] for voice in self.voices])
        self._voice_shares = weights / weights.sum()
        self._texts = {key: sorted(texts) for key, texts in self.by_text.items()}
        self._pairs = {key: sorted(p for p, h in pairs.items() if all(h)) for key, pairs in self.halves.items()}

    def draw_voice(self, rng: np.random.Generator) -> str:
        """A voice; one of which there are many clips comes more often, though less so than its clips are more."""
        return self.voices[int(rng.choice(len(self.voices), p=self._voice_shares))]

    def has(self, intent: str) -> bool:
        """Whether there are training clips of this intent: they stand in where a held-out split has none."""
        return ("train", intent) in self._texts

    def choose(
        self, intent: str, split: str, speaker: Speaker, rng: np.random.Generator, without: Sequence[str] = ()
    ) -> tuple[Clip, str]:
        """A clip and its split: mostly something said in the speaker's own voice, else any wording, all equally likely.

        Where a held-out split has no wording of an intent (they are few for "yes"), one of `train` is taken.
        Wordings with a word of `without` are passed over if there are others.
        """
        for place in dict.fromkeys((split, "train")):
            own = self._texts_of.get((place, intent, speaker.voice), [])
            texts = own if own and rng.random() < OWN_VOICE else self._texts.get((place, intent), [])
            if without:
                texts = [t for t in texts if not any(word in t.lower() for word in without)]
            if texts:
                text = texts[int(rng.integers(len(texts)))]
                return _nearest_voice(self.by_text[place, intent][text], speaker, rng), place
        if without:
            return self.choose(intent, split, speaker, rng)
        raise ValueError(f"no clip of intent {intent!r} in split {split!r}")

    def utterance(
        self,
        clip: Clip,
        split: str,
        speaker: Speaker,
        pause_s: float = 0.0,
        anywhere: np.random.Generator | None = None,
    ) -> Utterance:
        """The clip as this speaker says it; with `pause_s` a pause of that length stands at its longest silence.

        Or, with a generator that draws one, in the quietest place near where some word ends.
        """
        rate = self.sample_rate
        start, end = clip.speech_start_s, min(clip.speech_end_s, len(clip.pcm) / rate)
        wav = int16_to_float(np.asarray(clip.pcm[round(start * rate) : round(end * rate)])) * speaker.gain
        words = [_shift(word, -start) for word in clip.words]
        pauses: list[tuple[float, float]] = []
        wav = change_speed(wav, rate, speaker.factor)
        words = [Word(w.text, w.start_s / speaker.factor, w.end_s / speaker.factor) for w in words]
        place = max(clip.pauses, key=lambda pause: pause[1] - pause[0]) if clip.pauses else None
        if pause_s and anywhere is not None:
            place = _between_words(clip, rate, anywhere) or place
        if pause_s and place:
            left, right = place
            cut = (0.5 * (left + right) - start) / speaker.factor
            gap = max(0.0, pause_s - (right - left) / speaker.factor)
            at = round(cut * rate)
            wav = np.concatenate([wav[:at], np.zeros(round(gap * rate), np.float32), wav[at:]])
            words = [w if 0.5 * (w.start_s + w.end_s) < cut else _shift(w, gap) for w in words]
            pauses.append(((left - start) / speaker.factor, (right - start) / speaker.factor + gap))
        return Utterance(
            fade(wav, rate), _inside(words, len(wav) / rate), clip.text, clip.intent, clip.digits, split,
            clip.voice, tuple(pauses),
        )  # fmt: skip

    def two_parts(
        self, intent: str, split: str, speaker: Speaker, pause_s: float, rng: np.random.Generator
    ) -> Utterance | None:
        """An utterance of this intent recorded in two halves, with a pause between; None if the split has none."""
        pairs = self._pairs.get((split, intent), [])
        if not pairs:
            return None
        pair = pairs[int(rng.integers(len(pairs)))]
        first_clips, second_clips = self.halves[split, intent][pair]
        first_clip = _nearest_voice(first_clips, speaker, rng)
        same = replace(speaker, voice=_timbre(first_clip.voice), pitch=first_clip.pitch)
        first = self.utterance(first_clip, split, speaker)
        second = self.utterance(_nearest_voice(second_clips, same, rng), split, speaker)
        rate = self.sample_rate
        begin = len(first.wav) / rate
        return replace(
            first,
            wav=np.concatenate([first.wav, np.zeros(round(pause_s * rate), np.float32), second.wav]),
            words=(*first.words, *(_shift(w, begin + pause_s) for w in second.words)),
            text=f"{first.text} {second.text}",
            pauses_s=((begin, begin + pause_s),),
        )


def _between_words(clip: Clip, rate: int, rng: np.random.Generator) -> tuple[float, float] | None:
    """Where [s] a speaker might have hesitated: one of the quietest places near the ends of inner words.

    Word times are not exact, and where two words run into each other a cut can be heard.
    """
    pcm, hop = np.asarray(clip.pcm, np.float32), rate // 100
    energy = np.convolve(np.square(pcm), np.ones(2 * hop), "same")[::hop]
    places = []
    for word in clip.words[:-1]:
        first, last = (round((word.end_s + edge) * 100) for edge in (-NEAR_S, NEAR_S))
        near = np.arange(max(0, first), min(len(energy), last))
        if len(near):
            quietest = int(near[np.argmin(energy[near])])
            places.append((float(energy[quietest]), quietest / 100))
    if not places:
        return None
    at = sorted(places)[int(rng.integers(min(QUIET_PLACES, len(places))))][1]
    return at, at


def fade(wav: np.ndarray, sample_rate: int, fade_s: float = 0.005) -> np.ndarray:
    """wav [N] with short ramps at both ends, in place."""
    length = min(round(fade_s * sample_rate), len(wav) // 2)
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    wav[:length] *= ramp
    wav[len(wav) - length :] *= ramp[::-1]
    return wav


def change_speed(wav: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """wav [N] played `factor` times faster: pitch and tempo move together."""
    return resample(wav, round(rate * factor), rate).copy() if factor != 1.0 else wav


def split_of_clip(clip: Clip) -> str:
    """The split of what a clip says; of a half, that of the whole utterance."""
    return split_of(" ".join(_whole(clip))) if clip.part else split_of(clip.text, clip.digits)


def _whole(clip: Clip) -> tuple[str, str]:
    """Both halves of what a clip is one half of."""
    return (clip.text, clip.pair) if clip.part == 1 else (clip.pair, clip.text)


def _timbre(voice: str) -> str:
    """The first voice of a mixture such as 'af_nova:0.6+af_sky:0.4/bm_george', whose manner is another one's."""
    return re.split("[:+/]", voice)[0]


def _nearest_voice(clips: list[Clip], speaker: Speaker, rng: np.random.Generator) -> Clip:
    """A clip of the speaker's voice, the nearest in pitch; without one, any clip of the same sex if there is."""
    same = [clip for clip in clips if _timbre(clip.voice) == speaker.voice]
    if same:
        return min(same, key=lambda clip: abs(clip.pitch - speaker.pitch))
    alike = [clip for clip in clips if clip.voice[1:2] == speaker.voice[1:2]] or clips
    return alike[int(rng.integers(len(alike)))]


def _shift(word: Word, by_s: float) -> Word:
    return Word(word.text, word.start_s + by_s, word.end_s + by_s)


def _inside(words: Iterable[Word], end_s: float) -> tuple[Word, ...]:
    return tuple(Word(w.text, min(max(w.start_s, 0.0), end_s), min(max(w.end_s, 0.0), end_s)) for w in words)
