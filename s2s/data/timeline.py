"""A call in the making: two tracks on one clock, where speech is placed and the agent can be cut off."""

from collections.abc import Iterable

import numpy as np

from s2s.data.schema import Action, Word


class Timeline:
    """Caller and agent, float32, up to `longest` samples; times are samples from the start of the call."""

    def __init__(self, longest: int, sample_rate: int, frame_size: int) -> None:
        self.sample_rate, self.frame_size = sample_rate, frame_size
        self.user = np.zeros(longest, np.float32)
        self.agent = np.zeros(longest, np.float32)
        self.user_words: list[Word] = []
        self.agent_words: list[Word] = []
        self.actions: list[Action] = []

    @property
    def longest(self) -> int:
        return len(self.user)

    def on_frame(self, at: int) -> int:
        """The first frame boundary at or after `at`: speech that starts there has the same codes in every call."""
        return -(-at // self.frame_size) * self.frame_size

    def hear(self, wav: np.ndarray, words: Iterable[Word], at: int) -> int:
        """Put the caller's wav [N] at `at`; returns its end."""
        return self._put(self.user, self.user_words, wav, words, at)

    def say(self, wav: np.ndarray, words: Iterable[Word], at: int) -> int:
        """Put the agent's wav [N] at `at`, a frame boundary; returns its end."""
        assert at % self.frame_size == 0, at
        return self._put(self.agent, self.agent_words, wav, words, at)

    def act(self, name: str, at: int) -> None:
        """The agent does something at `at`."""
        self.actions.append(Action(name, at / self.sample_rate))

    def stop_agent(self, at: int, fade: int) -> None:
        """The agent is silent from `at` on, after a fade of `fade` samples; later words and actions are gone."""
        begin = max(0, at - fade)
        self.agent[begin:at] *= np.linspace(1, 0, at - begin, dtype=np.float32)
        self.agent[at:] = 0
        second = at / self.sample_rate
        kept = [word for word in self.agent_words if word.start_s < second]
        self.agent_words = [Word(w.text, w.start_s, min(w.end_s, second)) for w in kept]
        self.actions = [action for action in self.actions if action.at_s < second]

    def finish(self, length: int) -> None:
        """Cut both tracks to `length`, rounded up to whole frames where there is room."""
        length = min(self.on_frame(length), self.longest // self.frame_size * self.frame_size)
        self.user, self.agent = self.user[:length], self.agent[:length]
        self.user_words.sort(key=lambda word: word.start_s)

    def _put(self, track: np.ndarray, kept: list[Word], wav: np.ndarray, words: Iterable[Word], at: int) -> int:
        assert at >= 0, at
        assert at + len(wav) <= len(track), (at, len(wav), len(track))
        track[at : at + len(wav)] += wav
        offset = at / self.sample_rate
        kept += [Word(word.text, word.start_s + offset, word.end_s + offset) for word in words]
        return at + len(wav)
