"""The toy task: the caller plays a few tones, the agent plays the same tones back. Needs no recordings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2s.data.schema import Dialogue, Word

TONES = {"do": 262.0, "re": 330.0, "mi": 415.0, "fa": 523.0, "so": 659.0, "la": 831.0, "ti": 1047.0, "da": 1319.0}


@dataclass(frozen=True)
class ToyEchoConfig:
    """`num_dialogues` of `duration_s` each; a tone lasts `tone_s`, the agent answers `answer_s` after the last one."""

    num_dialogues: int = 256
    duration_s: float = 8.0
    sample_rate: int = 24_000
    num_tones: int = 8
    min_sequence: int = 1
    max_sequence: int = 4
    tone_s: float = 0.2
    gap_s: float = 0.04
    answer_s: float = 0.24
    max_pause_s: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_tones <= len(TONES):
            raise ValueError(f"num_tones {self.num_tones} must be 1 to {len(TONES)}")
        if not 1 <= self.min_sequence <= self.max_sequence:
            raise ValueError(f"min_sequence {self.min_sequence} to max_sequence {self.max_sequence} is no range from 1")


class ToyEchoSource:
    """Dialogue `index` is a pure function of (seed, index)."""

    name = "toy_echo"

    def __init__(self, config: ToyEchoConfig) -> None:
        self._config = config

    def __len__(self) -> int:
        return self._config.num_dialogues

    def row_id(self, index: int) -> str:
        return f"toy-{self._config.seed}-{index}"

    def __getitem__(self, index: int) -> Dialogue:
        if not 0 <= index < len(self):
            raise IndexError(index)
        config = self._config
        rng = np.random.default_rng((config.seed, index))
        num_samples = round(config.duration_s * config.sample_rate)
        user, agent = np.zeros(num_samples, np.float32), np.zeros(num_samples, np.float32)
        user_words: list[Word] = []
        agent_words: list[Word] = []
        start_s = float(rng.uniform(0.1, 0.1 + config.max_pause_s))
        while True:
            names = self._sequence(rng)
            length_s = len(names) * (config.tone_s + config.gap_s)
            answer_s = start_s + length_s - config.gap_s + config.answer_s
            if answer_s + length_s > config.duration_s:
                break
            user_words += self._play(user, names, start_s, float(rng.uniform(0.1, 0.5)), rng)
            agent_words += self._play(agent, names, answer_s, 0.3, None)
            start_s = answer_s + length_s + float(rng.uniform(0.1, 0.1 + config.max_pause_s))
        return Dialogue(self.row_id(index), user, agent, config.sample_rate, user_words, agent_words, {"kind": "toy"})

    def _sequence(self, rng: np.random.Generator) -> list[str]:
        count = int(rng.integers(self._config.min_sequence, self._config.max_sequence + 1))
        names = list(TONES)[: self._config.num_tones]
        return [names[i] for i in rng.integers(len(names), size=count)]

    def _play(
        self, track: np.ndarray, names: list[str], start_s: float, level: float, rng: np.random.Generator | None
    ) -> list[Word]:
        """Adds tones to the track [N] and returns when each is; with `rng`, every tone is a little out of tune."""
        config = self._config
        words = []
        for name in names:
            size = round(config.tone_s * config.sample_rate)
            first = round(start_s * config.sample_rate)
            pitch = TONES[name] * (float(rng.uniform(0.99, 1.01)) if rng else 1.0)
            time = np.arange(size) / config.sample_rate
            ramp = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.01)  # 10 ms on and off: no clicks
            track[first : first + size] += (level * ramp * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
            words.append(Word(name, round(start_s, 4), round(start_s + config.tone_s, 4)))
            start_s += config.tone_s + config.gap_s
        return words
