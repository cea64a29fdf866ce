"""The two tracks of a dialogue, from one stereo recording or from two mono ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2s.audio.io import read_audio
from s2s.data.schema import DialogueError

LENGTH_TOLERANCE_S = 0.04
DURATION_TOLERANCE_S = 0.1

AudioSource = Path | str | bytes
Tracks = tuple[np.ndarray, np.ndarray, int]


@dataclass(frozen=True)
class ChannelMap:
    """Which channel of a recording is whose."""

    agent: int = 0
    user: int = 1

    def __post_init__(self) -> None:
        if self.agent == self.user or min(self.agent, self.user) < 0:
            raise ValueError(f"channels agent={self.agent} user={self.user} must be two different numbers from 0")


AGENT_LEFT = ChannelMap()


def read_stereo(source: AudioSource, channels: ChannelMap) -> Tracks:
    """(user [N], agent [N], sample rate) of one recording; a missing channel raises DialogueError."""
    wav, rate = read_audio(source)
    if max(channels.agent, channels.user) >= wav.shape[0]:
        raise DialogueError(
            f"{wav.shape[0]} channels, but agent={channels.agent} and user={channels.user} are asked for"
        )
    return np.ascontiguousarray(wav[channels.user]), np.ascontiguousarray(wav[channels.agent]), rate


def read_pair(user: AudioSource, agent: AudioSource) -> Tracks:
    """(user [N], agent [N], sample rate) of two mono recordings on one clock.

    Ends that differ by less than a frame of 40 ms are cut to the shorter; more raises DialogueError, as do two rates.
    """
    (user_wav, rate), (agent_wav, agent_rate) = read_audio(user), read_audio(agent)
    for name, wav in (("user", user_wav), ("agent", agent_wav)):
        if wav.shape[0] != 1:
            raise DialogueError(f"{name} track has {wav.shape[0]} channels, allowed is one")
    if rate != agent_rate:
        raise DialogueError(f"unequal rates: user {rate} Hz, agent {agent_rate} Hz")
    lengths = user_wav.shape[1], agent_wav.shape[1]
    if abs(lengths[0] - lengths[1]) > LENGTH_TOLERANCE_S * rate:
        raise DialogueError(f"unequal tracks: user {lengths[0]} samples, agent {lengths[1]}")
    size = min(lengths)
    return user_wav[0, :size], agent_wav[0, :size], rate


def check_declared(num_samples: int, rate: int, duration_s: float | None, sample_rate: int | None) -> None:
    """Raises DialogueError when a table or list promises another duration or rate than the audio has."""
    if sample_rate is not None and rate != sample_rate:
        raise DialogueError(f"wrong rate: {rate} Hz where {sample_rate} Hz is declared")
    if duration_s is not None and abs(num_samples / rate - duration_s) > DURATION_TOLERANCE_S:
        raise DialogueError(f"wrong duration: {num_samples / rate:.2f} s where {duration_s:.2f} s is declared")
