"""What a dialogue is before encoding (two tracks and their words) and after it (a row of the encoded table)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

FORMAT = "s2s.encoded.1"
WORD_TOLERANCE_S = 0.5

ENCODED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("num_frames", pa.int32()),
        ("user", pa.binary()),
        ("agent", pa.binary()),
        ("user_text", pa.binary()),
        ("agent_text", pa.binary()),
        ("agent_active", pa.binary()),
        ("source", pa.string()),
        ("meta", pa.string()),
    ]
)


class DialogueError(ValueError):
    """A dialogue that cannot be used; the message is the reason that stands in the quarantine list."""


@dataclass(frozen=True)
class Word:
    """A word without white space and when it is said, in seconds from the start of the dialogue."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Action:
    """Something the agent does without saying it, such as a hand-off, and when, in seconds from the start."""

    name: str
    at_s: float


@dataclass
class Dialogue:
    """Two mono tracks of one length on one clock: `user` [N] and `agent` [N] float32 in [-1, 1].

    `actions` are the agent's. Tracks named in `written` have words alone: they say how long they are and no more. Where
    both are, words may take only `pace` of their time when encoded, see `align.hurried`.
    """

    id: str
    user: np.ndarray
    agent: np.ndarray
    sample_rate: int
    user_words: list[Word] = field(default_factory=list)
    agent_words: list[Word] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    written: tuple[str, ...] = ()
    pace: float = 1.0

    @property
    def num_samples(self) -> int:
        return int(self.user.shape[-1])

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate

    def check(self) -> Dialogue:
        """Returns itself, or raises DialogueError with the first thing that is wrong."""
        if not 4_000 <= self.sample_rate <= 384_000:
            raise DialogueError(f"sample rate {self.sample_rate} Hz is outside 4000 to 384000")
        for name, wav in (("user", self.user), ("agent", self.agent)):
            if wav.ndim != 1:
                raise DialogueError(f"{name} track has shape {wav.shape}, allowed is [N]")
            if wav.size == 0:
                raise DialogueError(f"{name} track is empty")
            if not np.isfinite(wav).all():
                raise DialogueError(f"{name} track holds NaN or infinity")
        if self.user.size != self.agent.size:
            raise DialogueError(f"unequal tracks: user {self.user.size} samples, agent {self.agent.size}")
        for word in (*self.user_words, *self.agent_words):
            if not 0 <= word.start_s <= word.end_s < float("inf"):
                raise DialogueError(f"word {word.text!r} runs from {word.start_s} to {word.end_s} s")
            if word.start_s > self.duration_s + WORD_TOLERANCE_S:
                raise DialogueError(
                    f"word {word.text!r} at {word.start_s} s is after the end at {self.duration_s:.2f} s"
                )
        if not 0 <= self.pace <= 1 or (self.pace < 1 and set(self.written) != {"user", "agent"}):
            raise DialogueError(f"pace {self.pace}, allowed is 0 to 1, and below 1 only where both tracks are written")
        for action in self.actions:
            if not 0 <= action.at_s <= self.duration_s + WORD_TOLERANCE_S:
                raise DialogueError(f"action {action.name!r} at {action.at_s} s, allowed is 0 to {self.duration_s:.2f}")
        return self


@dataclass
class EncodedDialogue:
    """One row of the encoded table.

    `user`, `agent` [K, T] codes; `user_text`, `agent_text` [T] token ids (the stream's pad id where no token stands),
    all int16; `agent_active` [T] uint8, 1 where the agent is audible.
    """

    id: str
    user: np.ndarray
    agent: np.ndarray
    user_text: np.ndarray
    agent_text: np.ndarray
    agent_active: np.ndarray
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        return int(self.agent_text.shape[0])

    def to_row(self) -> dict[str, Any]:
        """The row as `ENCODED_SCHEMA` stores it."""
        return {
            "id": self.id,
            "num_frames": self.num_frames,
            "user": _pack(self.user, "<i2"),
            "agent": _pack(self.agent, "<i2"),
            "user_text": _pack(self.user_text, "<i2"),
            "agent_text": _pack(self.agent_text, "<i2"),
            "agent_active": _pack(self.agent_active, "u1"),
            "source": self.source,
            "meta": json.dumps(self.meta, sort_keys=True, default=str),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> EncodedDialogue:
        """Reads a stored row; a column whose size contradicts `num_frames` raises DialogueError."""
        num_frames = int(row["num_frames"])
        unpacked = {}
        for name in ("user", "agent", "user_text", "agent_text"):
            unpacked[name] = np.frombuffer(row[name], dtype="<i2").astype(np.int16, copy=False)
        unpacked["agent_active"] = np.frombuffer(row["agent_active"], dtype=np.uint8)
        for name, values in unpacked.items():
            per_frame = 1 if name not in ("user", "agent") else max(1, values.size // max(1, num_frames))
            if num_frames < 1 or values.size != per_frame * num_frames:
                raise DialogueError(f"row {row['id']!r}: {name} holds {values.size} values for {num_frames} frames")
        unpacked["user"] = unpacked["user"].reshape(-1, num_frames)
        unpacked["agent"] = unpacked["agent"].reshape(-1, num_frames)
        return cls(id=row["id"], source=row["source"], meta=json.loads(row["meta"] or "{}"), **unpacked)


def _pack(values: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(values).astype(dtype).tobytes()
