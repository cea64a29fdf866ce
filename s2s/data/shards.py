"""Shards of the encoded table on disk: parquet files that carry how they were made, and the list of corrupt rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2s.data.schema import ENCODED_SCHEMA, FORMAT, EncodedDialogue

QUARANTINE = "quarantine.jsonl"
_KEY = b"s2s"


@dataclass(frozen=True)
class ShardInfo:
    """What codes and text ids of a shard mean; `recipe` is what else decides its content."""

    sample_rate: int
    frame_size: int
    num_codebooks: int
    codebook_size: int
    text_vocab_size: int
    text_pad_id: int
    tokenizer: str = ""
    codec: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)

    def meaning(self) -> dict[str, Any]:
        """Everything but the recipe: what shards that are trained on together must share."""
        return {name: value for name, value in asdict(self).items() if name != "recipe"}

    def difference(self, other: ShardInfo) -> str:
        """The fields in which two differ, for messages."""
        mine, theirs = ({**info.meaning(), **info.recipe} for info in (self, other))
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        return ", ".join(f"{name} {mine.get(name)!r} against {theirs.get(name)!r}" for name in names)


@dataclass(frozen=True)
class BadRow:
    """A corrupt row: its number, its id in the source, and why."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """A stored shard without its rows."""

    info: ShardInfo
    bad: tuple[BadRow, ...]
    num_rows: int
    num_frames: int


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.parquet"


def shard_files(paths: Iterable[str | Path]) -> list[Path]:
    """The shards of files and folders, folders in order of name; ValueError when there are none."""
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.glob("shard-*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no shards in {', '.join(map(str, paths)) or 'nothing'}: run `s2s encode` first")
    return files


def write_shard(path: Path, rows: Sequence[EncodedDialogue], bad: Sequence[BadRow], info: ShardInfo) -> None:
    """Writes a shard whole or not at all; the same rows give the same bytes."""
    about = {
        "format": FORMAT,
        "info": asdict(info),
        "bad": [asdict(row) for row in bad],
        "num_frames": sum(row.num_frames for row in rows),
    }
    schema = ENCODED_SCHEMA.with_metadata({_KEY: json.dumps(about, sort_keys=True)})
    table = pa.Table.from_pylist([row.to_row() for row in rows], schema)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        pq.write_table(table, part, compression="zstd")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_shard(path: Path) -> Shard:
    """What a shard says about itself; ValueError when it is not a shard."""
    try:
        with pq.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a shard that can be read ({error})") from error
    about = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
    if about.get("format") != FORMAT or schema.names != ENCODED_SCHEMA.names:
        raise ValueError(f"{path}: not a shard of the format {FORMAT}")
    bad = tuple(BadRow(**row) for row in about["bad"])
    return Shard(ShardInfo(**about["info"]), bad, num_rows, about["num_frames"])


def common_info(files: Sequence[Path]) -> ShardInfo:
    """What all shards mean; ValueError when two do not mean the same."""
    infos = [read_shard(file).info for file in files]
    for file, info in zip(files, infos, strict=True):
        if info.meaning() != infos[0].meaning():
            raise ValueError(f"{file} does not go with {files[0]}: {info.difference(infos[0])}")
    return infos[0]


def write_quarantine(folder: Path) -> None:
    """Lists the corrupt rows of all shards of the folder in `quarantine.jsonl`, one record per row."""
    lines = [
        json.dumps({"shard": file.name, **asdict(row)}) + "\n"
        for file in sorted(folder.glob("shard-*.parquet"))
        for row in read_shard(file).bad
    ]
    part = folder / f".{QUARANTINE}.{os.getpid()}.part"
    part.write_text("".join(lines), encoding="utf-8")
    part.replace(folder / QUARANTINE)
