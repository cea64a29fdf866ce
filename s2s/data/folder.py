"""Dialogues in a plain folder: `name.user.wav` and `name.agent.wav`, or one stereo `name.wav`, words beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s2s.audio.io import write_wav
from s2s.data.moshi_finetune import file_stem
from s2s.data.schema import Dialogue, DialogueError, Word
from s2s.data.tracks import AGENT_LEFT, ChannelMap, check_declared, read_pair, read_stereo
from s2s.data.words import format_words, parse_alignments, parse_words

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


@dataclass(frozen=True)
class FolderConfig:
    """`path` of the folder, searched with its sub-folders.

    Words of `name` stand in `name.json` ({"user": [[text, [start, end]], ...], "agent": [...]}, or "alignments" with
    speakers) or in `name.txt` (a line per word: speaker, start, end, text; the speaker is user or agent).
    """

    path: str
    channels: ChannelMap = AGENT_LEFT
    sample_rate: int | None = None


class FolderSource:
    """One row per name; a row is read, and can fail with ValueError, only when it is asked for."""

    def __init__(self, config: FolderConfig) -> None:
        self._config = config
        self._path = Path(config.path)
        if not self._path.is_dir():
            raise ValueError(f"{config.path!r} is not a folder")
        self.name = self._path.resolve().name
        self._files: dict[str, dict[str, Path]] = {}
        for file in sorted(self._path.rglob("*")):
            if file.suffix.lower() in AUDIO_SUFFIXES:
                role = Path(file.stem).suffix[1:]
                role, stem = (role, Path(file.stem).stem) if role in ("user", "agent") else ("both", file.stem)
                self._files.setdefault(str((file.parent / stem).relative_to(self._path)), {})[role] = file
        self._names = list(self._files)

    def __len__(self) -> int:
        return len(self._names)

    def row_id(self, index: int) -> str:
        return self._names[index]

    def __getitem__(self, index: int) -> Dialogue:
        name = self._names[index]
        files = self._files[name]
        if "both" in files and len(files) > 1:
            raise DialogueError(f"{name} has a stereo file and a mono track; allowed is one of the two ways")
        if "both" in files:
            user, agent, rate = read_stereo(files["both"], self._config.channels)
        elif len(files) == 2:
            user, agent, rate = read_pair(files["user"], files["agent"])
        else:
            raise DialogueError(f"{name} has only the track of the {next(iter(files))}")
        check_declared(user.size, rate, None, self._config.sample_rate)
        user_words, agent_words = _read_words(self._path / name)
        return Dialogue(name, user, agent, rate, user_words, agent_words)


def write_folder(dialogues: Iterable[Dialogue], path: Path | str) -> int:
    """Writes two mono tracks and a json of words per dialogue; returns their number."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    used: set[str] = set()
    for dialogue in dialogues:
        stem = file_stem(dialogue.id, used)
        write_wav(folder / f"{stem}.user.wav", dialogue.user, dialogue.sample_rate)
        write_wav(folder / f"{stem}.agent.wav", dialogue.agent, dialogue.sample_rate)
        words = {"user": format_words(dialogue.user_words), "agent": format_words(dialogue.agent_words)}
        (folder / f"{stem}.json").write_text(json.dumps(words), encoding="utf-8")
    return len(used)


def _read_words(stem: Path) -> tuple[list[Word], list[Word]]:
    json_path, text_path = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".txt")
    if json_path.is_file():
        try:
            fields = json.loads(json_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DialogueError(f"{json_path.name} is not JSON: {error}") from error
        if isinstance(fields, dict) and "alignments" in fields:
            return parse_alignments(fields["alignments"])
        if not isinstance(fields, dict) or not {"user", "agent"} & fields.keys():
            raise DialogueError(f"{json_path.name} holds neither 'alignments' nor 'user' and 'agent'")
        return parse_words(fields.get("user")), parse_words(fields.get("agent"))
    if text_path.is_file():
        return _parse_text(text_path)
    return [], []


def _parse_text(path: Path) -> tuple[list[Word], list[Word]]:
    words: dict[str, list[list[str]]] = {"user": [], "agent": []}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        parts = line.split(maxsplit=3)
        if not parts:
            continue
        if len(parts) < 4 or parts[0] not in words:
            raise DialogueError(f"{path.name} line {number}: {line!r} is not 'user|agent start end text'")
        words[parts[0]].append([parts[3], parts[1], parts[2]])
    return parse_words(words["user"]), parse_words(words["agent"])
