"""Dialogues in the layout of moshi-finetune: a jsonl of stereo wavs, each with a json of alignments beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2s.audio.io import write_wav
from s2s.data.schema import Action, Dialogue, DialogueError
from s2s.data.tracks import AGENT_LEFT, ChannelMap, check_declared, read_stereo
from s2s.data.words import AGENT_SPEAKERS, format_alignments, parse_alignments


@dataclass(frozen=True)
class MoshiFinetuneConfig:
    """`path` of the jsonl; agent left and user right unless `channels` says otherwise."""

    path: str
    channels: ChannelMap = AGENT_LEFT
    agent_speakers: tuple[str, ...] = AGENT_SPEAKERS
    sample_rate: int | None = None


class MoshiFinetuneSource:
    """Rows of the jsonl; a row is read, and can fail with ValueError, only when it is asked for."""

    def __init__(self, config: MoshiFinetuneConfig) -> None:
        self._config = config
        self._path = Path(config.path)
        if not self._path.is_file():
            raise ValueError(f"{config.path!r} is not a file; a moshi-finetune data set is a jsonl file")
        self._lines = [line for line in self._path.read_text(encoding="utf-8").splitlines() if line.strip()]
        self.name = self._path.name

    def __len__(self) -> int:
        return len(self._lines)

    def row_id(self, index: int) -> str:
        try:
            return str(json.loads(self._lines[index])["path"])
        except (ValueError, KeyError, TypeError):
            return f"line {index + 1}"

    def __getitem__(self, index: int) -> Dialogue:
        try:
            line = json.loads(self._lines[index])
            path = self._path.parent / line["path"]
            duration_s = float(line["duration"])
        except (ValueError, KeyError, TypeError) as error:
            raise DialogueError(f"line {index + 1} is not a record of path and duration ({error!r})") from error
        user, agent, rate = read_stereo(path, self._config.channels)
        check_declared(user.size, rate, duration_s, self._config.sample_rate)
        fields = _read_json(path.with_suffix(".json"))
        user_words, agent_words = parse_alignments(fields.pop("alignments", None), self._config.agent_speakers)
        actions = _parse_actions(fields.pop("actions", []))
        return Dialogue(line["path"], user, agent, rate, user_words, agent_words, fields, actions)


def write_moshi_finetune(dialogues: Iterable[Dialogue], path: Path | str) -> int:
    """Writes a jsonl at `path`, wavs and alignments in the folder `<stem>_stereo` beside it; returns their number."""
    path = Path(path)
    folder = path.parent / f"{path.stem}_stereo"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    used: set[str] = set()
    for dialogue in dialogues:
        stem = file_stem(dialogue.id, used)
        write_wav(folder / f"{stem}.wav", np.stack([dialogue.agent, dialogue.user]), dialogue.sample_rate)
        fields = {**dialogue.meta, "alignments": format_alignments(dialogue.user_words, dialogue.agent_words)}
        if dialogue.actions:  # a field of ours, which other readers pass over
            fields["actions"] = [[action.name, action.at_s] for action in dialogue.actions]
        (folder / f"{stem}.json").write_text(json.dumps(fields), encoding="utf-8")
        lines.append(json.dumps({"path": f"{folder.name}/{stem}.wav", "duration": dialogue.duration_s}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def file_stem(dialogue_id: str, used: set[str]) -> str:
    """A file name without folders or dots for a dialogue; two dialogues with one name are a ValueError."""
    stem = re.sub(r"[^\w-]+", "_", dialogue_id.removesuffix(".wav")).strip("_") or "dialogue"
    if stem in used:
        raise ValueError(f"two dialogues would be written to {stem!r}: ids must differ in letters and digits")
    used.add(stem)
    return stem


def _parse_actions(found: Any) -> list[Action]:
    """[[name, seconds], ...] as actions of the agent; anything else raises DialogueError."""
    try:
        return [Action(str(name), float(at_s)) for name, at_s in found]
    except (TypeError, ValueError) as error:
        raise DialogueError(f"actions are {found!r}, expected is [[name, seconds], ...]") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The fields of a json file; none when there is no file."""
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DialogueError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DialogueError(f"{path.name} is not an object with 'alignments'")
    return fields
