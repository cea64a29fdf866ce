"""Composes two-track calls to the support desk from clips: seeded, without end, every call at once reachable."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from s2s.audio.pcm import int16_to_float
from s2s.data.augment import AugmentConfig, augment_caller
from s2s.data.calls import Call, CallConfig, Material
from s2s.data.clips import Clip, expand, load_clips
from s2s.data.desk import load_desk
from s2s.data.schema import Dialogue
from s2s.data.utterances import SPLITS, Callers
from s2s.data.wishes import WEIGHTS, Wishes

# The caller's level is drawn once per call by the composer, so the augmentation leaves it alone.
MODERATE = AugmentConfig(
    room_chance=0.1,
    echo_chance=0.1,
    noise_chance=0.35,
    noise_snr_db=(10.0, 30.0),
    gain_chance=0.0,
    telephone_chance=0.25,
    loss_chance=0.05,
)


@dataclass(frozen=True)
class ComposeConfig:
    """Where the clips are and which calls are wanted.

    `desk` is the desk's YAML, `agent` the table of its replies; `callers` and `noise` are globs of tables, `cache` is a
    folder for decoded audio. `weights` by intent say what callers want, `unclear_again` how often two turns in a row
    are not understood. `augment` is what happens to the caller's track afterwards (None: nothing). The same config,
    clips, seed, split and number give the same call.
    """

    desk: str
    agent: str
    callers: tuple[str, ...]
    cache: str
    noise: tuple[str, ...] = ()
    num_dialogues: int = 10000
    split: str = "train"
    seed: int = 0
    call: CallConfig = field(default_factory=CallConfig)
    augment: AugmentConfig | None = MODERATE
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    unclear_again: float = 0.25

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r}; allowed are {SPLITS}")


def iter_dialogues(
    config: ComposeConfig, seed: int, split: str, start: int = 0, count: int | None = None
) -> Iterator[Dialogue]:
    """Calls number `start`, `start + 1` ... of this seed and split, `count` of them or without end."""
    composer = Composer(config)
    index = start
    while count is None or index < start + count:
        yield composer.compose(seed, split, index)
        index += 1


def call_id(seed: int, split: str, index: int) -> str:
    """The name of call `index` of a seed and split."""
    return f"desk-{split}-{seed}-{index:07d}"


class DeskSource:
    """The calls of a config as rows by number: 0 ... num_dialogues - 1 of its split and seed."""

    name = "support_desk"

    def __init__(self, config: ComposeConfig) -> None:
        self._config = config
        self._composer = Composer(config)

    def __len__(self) -> int:
        return self._config.num_dialogues

    def row_id(self, index: int) -> str:
        return call_id(self._config.seed, self._config.split, index)

    def __getitem__(self, index: int) -> Dialogue:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._composer.compose(self._config.seed, self._config.split, index)


class Composer:
    """All clips, loaded once. `compose` is a function of its arguments alone, so that workers can share the numbers."""

    def __init__(self, config: ComposeConfig) -> None:
        """ValueError if a pattern matches no file or a reply of the desk has no clip."""
        self.config = config
        desk, cache, rate = load_desk(config.desk), Path(config.cache), config.call.sample_rate
        replies: dict[tuple[str, str], list[Clip]] = {}
        for clip in load_clips(expand([config.agent]), cache, rate):
            replies.setdefault((clip.key, clip.digits), []).append(clip)
        missing = [key for key in desk.fixed_replies() if (key, "") not in replies]
        if missing:
            raise ValueError(f"{config.agent}: no clip of the replies {missing}")
        said = {digits for _, digits in replies if digits}
        callers = Callers(load_clips(expand(config.callers), cache, rate), rate, said)
        self.material = Material(
            desk, replies, callers, Wishes(desk, config.weights, callers.has, config.unclear_again)
        )
        noises = load_clips(expand(config.noise), cache, rate)
        self.noises = [int16_to_float(np.asarray(clip.pcm)) for clip in noises]

    def compose(self, seed: int, split: str, index: int) -> Dialogue:
        """One call. ValueError for a split that is not one of train, validation, test."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}; allowed are {SPLITS}")
        key = (seed, SPLITS.index(split), index)
        call = Call(self.material, self.config.call, split, np.random.default_rng(key))
        dialogue = call.run(call_id(seed, split, index))
        if self.config.augment:
            rate, augment = self.config.call.sample_rate, self.config.augment
            dialogue.user = augment_caller(dialogue.user, dialogue.agent, rate, augment, key, self.noises)
        return dialogue
