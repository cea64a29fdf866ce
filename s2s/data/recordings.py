"""Recordings: rows of a table of speech that are chosen by their columns, decoded one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s2s.audio.io import AudioError, read_audio
from s2s.audio.resample import resample


def read_recordings(
    path: Path | str, sample_rate: int, where: Mapping[str, Sequence[str]], count: int | None = None
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield the columns and the wav float32 [N] of every row of a parquet table whose columns hold one of these values.

    With `count` only so many of them, evenly over the table. Rows that are not audio are left out. Raises ValueError
    for a file that is no such table, or without a row to yield.
    """
    try:
        table = pq.read_table(path, filters=[(name, "in", list(values)) for name, values in where.items()] or None)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: not a table with the columns {sorted(where)} ({error})") from error
    if "audio" not in table.column_names:
        raise ValueError(f"{path}: has no column 'audio', it has {table.column_names}")
    if count is not None and count < len(table):
        table = table.take([number * len(table) // count for number in range(count)])
    found = 0
    for batch in table.to_batches(64):
        for row in batch.to_pylist():
            try:
                wav, rate = read_audio(row.pop("audio"))
            except AudioError:
                continue
            found += 1
            yield row, resample(wav.mean(axis=0), rate, sample_rate)
    if not found:
        raise ValueError(f"{path}: no recording with {dict(where)}")
