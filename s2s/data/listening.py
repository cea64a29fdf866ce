"""Clips that are only listened to: any speech with its text, and an agent who says nothing.

Callers of a desk say a few thousand wordings, which a model can tell apart by a few sounds each. Other sentences, and
words in no order, make it hear what was said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s2s.audio.pcm import int16_to_float
from s2s.data.augment import AugmentConfig, augment_caller
from s2s.data.clips import Clip
from s2s.data.schema import Dialogue, Word
from s2s.data.utterances import change_speed

LEAD_S = (0.1, 0.5)
TAIL_S = 0.16  # ends before a reply would be due
LEVEL_DB = (-14.0, 2.0)
SPEED = (0.86, 1.16)  # moves pitch and timbre too, which makes more people of the same voices


class ListeningSource:
    """One row per clip; each is a function of the seed and its number."""

    name = "listening"

    def __init__(
        self,
        clips: Sequence[Clip],
        sample_rate: int,
        augment: AugmentConfig | None = None,
        noises: Sequence[np.ndarray] = (),
        seed: int = 0,
    ) -> None:
        self._clips = [clip for clip in clips if clip.words]
        self._rate, self._augment, self._noises, self._seed = sample_rate, augment, noises, seed

    def __len__(self) -> int:
        return len(self._clips)

    def row_id(self, index: int) -> str:
        return f"listen-{self._seed}-{index:06d}"

    def __getitem__(self, index: int) -> Dialogue:
        clip, rng = self._clips[index], np.random.default_rng((self._seed, index))
        lead_s, gain = rng.uniform(*LEAD_S), 10 ** (rng.uniform(*LEVEL_DB) / 20)
        speed = round(float(rng.uniform(*SPEED)), 2)
        start, end = (round(at * self._rate) for at in (clip.speech_start_s, clip.speech_end_s))
        speech = change_speed(int16_to_float(np.asarray(clip.pcm[start:end])) * np.float32(gain), self._rate, speed)
        user = np.pad(speech, (round(lead_s * self._rate), round(TAIL_S * self._rate)))
        agent = np.zeros_like(user)
        if self._augment:
            user = augment_caller(user, agent, self._rate, self._augment, (self._seed, index), self._noises)
        words = [
            Word(w.text, *(lead_s + max(0.0, at - clip.speech_start_s) / speed for at in (w.start_s, w.end_s)))
            for w in clip.words
        ]
        return Dialogue(self.row_id(index), user, agent, self._rate, words)
