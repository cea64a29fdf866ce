"""Dialogues in parquet files or a `datasets` table: audio bytes in columns whose names are configurable."""

from __future__ import annotations

import io
import json
import wave
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s2s.audio.pcm import float_to_int16
from s2s.data.schema import Dialogue, DialogueError, Word
from s2s.data.tracks import AGENT_LEFT, ChannelMap, check_declared, read_pair, read_stereo
from s2s.data.words import format_words, parse_alignments, parse_words


@dataclass(frozen=True)
class ColumnMap:
    """Column names; an empty name means there is no such column.

    Audio stands in `stereo`, or in `user` and `agent`; a cell is the bytes of a file or a record with `bytes`. Words
    stand in `user_words` and `agent_words`, or in `alignments` with speakers. `duration` and `sample_rate` are
    promises that the audio is held to. `meta` columns are kept.
    """

    id: str = ""
    stereo: str = ""
    user: str = ""
    agent: str = ""
    user_words: str = ""
    agent_words: str = ""
    alignments: str = ""
    duration: str = ""
    sample_rate: str = ""
    meta: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.stereo) == bool(self.user and self.agent) or bool(self.user) != bool(self.agent):
            raise ValueError("a column map names either stereo, or user and agent")

    def names(self) -> list[str]:
        single = (self.id, self.stereo, self.user, self.agent, self.user_words, self.agent_words, self.alignments)
        return [name for name in (*single, self.duration, self.sample_rate, *self.meta) if name]


@dataclass(frozen=True)
class TableConfig:
    """Parquet `files` and what their columns are called."""

    files: tuple[str, ...]
    columns: ColumnMap
    channels: ChannelMap = AGENT_LEFT


class Rows(Protocol):
    """A table that gives a row as a mapping from column name to value."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class TableSource:
    """Rows of a table; a row is decoded, and can fail with ValueError, only when it is asked for."""

    def __init__(self, rows: Rows, columns: ColumnMap, channels: ChannelMap = AGENT_LEFT, name: str = "table") -> None:
        self._rows, self._columns, self._channels = rows, columns, channels
        self.name = name

    @classmethod
    def from_files(cls, config: TableConfig) -> TableSource:
        """Reads parquet files row group by row group."""
        name = ",".join(Path(file).name for file in config.files)
        return cls(ParquetRows(config.files, config.columns.names()), config.columns, config.channels, name)

    @classmethod
    def from_dataset(cls, dataset: Any, columns: ColumnMap, channels: ChannelMap = AGENT_LEFT) -> TableSource:
        """Reads a `datasets.Dataset`; its Audio columns are left undecoded and decoded here."""
        from datasets import Audio

        _check_columns(columns.names(), dataset.column_names, "the table")
        dataset = dataset.select_columns(sorted(set(columns.names())))
        for name, feature in dataset.features.items():
            if isinstance(feature, Audio):
                dataset = dataset.cast_column(name, Audio(decode=False))
        return cls(dataset, columns, channels, name=str(dataset.info.dataset_name or "table"))

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        if not self._columns.id:
            return f"{self.name}-{index}"
        return str(self._rows[index][self._columns.id])

    def __getitem__(self, index: int) -> Dialogue:
        row, columns = self._rows[index], self._columns
        if columns.stereo:
            user, agent, rate = read_stereo(_audio(row, columns.stereo), self._channels)
        else:
            user, agent, rate = read_pair(_audio(row, columns.user), _audio(row, columns.agent))
        duration = row[columns.duration] if columns.duration else None
        sample_rate = row[columns.sample_rate] if columns.sample_rate else None
        check_declared(user.size, rate, duration, sample_rate)
        user_words, agent_words = self._words(row)
        dialogue_id = str(row[columns.id]) if columns.id else f"{self.name}-{index}"
        meta = {name: row[name] for name in columns.meta}
        return Dialogue(dialogue_id, user, agent, rate, user_words, agent_words, meta)

    def _words(self, row: Mapping[str, Any]) -> tuple[list[Word], list[Word]]:
        columns = self._columns
        if columns.alignments:
            return parse_alignments(row[columns.alignments])
        return (
            parse_words(row[columns.user_words] if columns.user_words else None),
            parse_words(row[columns.agent_words] if columns.agent_words else None),
        )


class ParquetRows:
    """Rows of parquet files by number; keeps one row group in memory, so reading in order reads each group once."""

    def __init__(self, files: Sequence[str], columns: Sequence[str]) -> None:
        if not files:
            raise ValueError("a table needs at least one parquet file")
        self._columns = sorted(set(columns))
        self._groups: list[tuple[str, int]] = []
        self._starts = [0]
        self._loaded: tuple[int, pa.Table] | None = None
        for file in files:
            try:
                parquet = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file}: not a parquet file that can be read ({error})") from error
            with parquet:
                _check_columns(columns, parquet.schema_arrow.names, file)
                for group in range(parquet.num_row_groups):
                    self._groups.append((file, group))
                    self._starts.append(self._starts[-1] + parquet.metadata.row_group(group).num_rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect_right(self._starts, index) - 1
        if self._loaded is None or self._loaded[0] != group:
            self._loaded = None  # two row groups are never in memory at once
            file, number = self._groups[group]
            with pq.ParquetFile(file) as parquet:
                self._loaded = group, parquet.read_row_group(number, columns=self._columns)
        row: dict[str, Any] = self._loaded[1].slice(index - self._starts[group], 1).to_pylist()[0]
        return row


def write_table(dialogues: Iterable[Dialogue], path: Path | str, rows_per_group: int = 100) -> ColumnMap:
    """Writes a parquet file of dialogues, stereo wavs with the agent left; returns the column map that reads it."""
    columns = ColumnMap(
        id="id",
        stereo="audio",
        user_words="user_words",
        agent_words="agent_words",
        duration="duration",
        sample_rate="sample_rate",
        meta=("meta",),
    )
    word = pa.struct([("text", pa.string()), ("start", pa.float64()), ("end", pa.float64())])
    kinds = {"id": pa.string(), "audio": pa.binary(), "duration": pa.float64(), "sample_rate": pa.int32()}
    schema = pa.schema({**kinds, "user_words": pa.list_(word), "agent_words": pa.list_(word), "meta": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for dialogue in dialogues:
            rows.append(_row(dialogue))
            if len(rows) == rows_per_group:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return columns


def _row(dialogue: Dialogue) -> dict[str, Any]:
    file = io.BytesIO()
    pcm = float_to_int16(np.stack([dialogue.agent, dialogue.user], axis=1))
    with wave.open(file, "wb") as wav:
        wav.setparams((2, 2, dialogue.sample_rate, pcm.shape[0], "NONE", ""))
        wav.writeframes(pcm.astype("<i2").tobytes())
    words = {
        name: [{"text": text, "start": start, "end": end} for text, (start, end) in format_words(spoken)]
        for name, spoken in (("user_words", dialogue.user_words), ("agent_words", dialogue.agent_words))
    }
    return {
        "id": dialogue.id,
        "audio": file.getvalue(),
        "duration": dialogue.duration_s,
        "sample_rate": dialogue.sample_rate,
        "meta": json.dumps(dialogue.meta, sort_keys=True, default=str),
        **words,
    }


def _audio(row: Mapping[str, Any], column: str) -> bytes | str:
    """The bytes of an audio cell, or the path in it."""
    cell = row[column]
    if isinstance(cell, Mapping):
        cell = cell["bytes"] if cell.get("bytes") else cell.get("path")
    if not isinstance(cell, bytes | str) or not cell:
        raise DialogueError(f"column {column!r} holds no audio")
    return cell


def _check_columns(wanted: Iterable[str], present: Sequence[str], name: str) -> None:
    missing = sorted(set(wanted) - set(present))
    if missing:
        raise ValueError(f"{name} has no column {', '.join(missing)}; it has {', '.join(present)}")
