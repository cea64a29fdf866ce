"""Encoded dialogues for training: shards as one memory-mapped arrow file, and batches of grid-ready tracks."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from s2s.data.schema import ENCODED_SCHEMA, EncodedDialogue
from s2s.data.shards import ShardInfo, common_info
from s2s.data.wrong_starts import Call, WrongStart, wrong_start

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class BatchKey:
    """What a batch holds: `rows` of the table, the first frame of each, and the length all are filled to."""

    rows: tuple[int, ...]
    starts: tuple[int, ...]
    num_steps: int


def build_arrow(files: Sequence[Path], cache: Path) -> Path:
    """Copies shards into one uncompressed arrow file in the folder `cache`, which can be mapped; once per content."""
    stamp = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    path = cache / f"encoded-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:12]}.arrow"
    if path.exists():
        return path
    common_info(files)
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, ENCODED_SCHEMA) as writer:
            for file in files:
                writer.write_table(pq.read_table(file).cast(ENCODED_SCHEMA), max_chunksize=1_024)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    log.info("%s: %d shards", path, len(files))
    return path


class EncodedDataset(Dataset[Batch]):
    """`dataset[key]` is a batch of rows; only the pages of these rows are read from disk."""

    def __init__(self, path: Path, info: ShardInfo, wrong_starts: float = 0.0) -> None:
        """Args: wrong_starts: share of rows in which the agent begins too early or late, where there is room for it."""
        self.info, self.wrong_starts = info, wrong_starts
        self._path = path
        self._table = self._map()
        self.num_frames: np.ndarray = self._table.column("num_frames").to_numpy()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, key: BatchKey) -> Batch:
        """{user [B, K, T], user_text [B, 1, T], agent_text [B, 1, T], agent [B, K, T], agent_active [B, T] bool,
        agent_stopped [B, T] bool, agent_erred [B, T] bool, waits [B] bool, lengths [B], rows [B]}, ids int64. Frames
        from a row's length on are filler: code 0, text pad, not active. A row waits unless the agent says something
        before the caller does. Where the agent has erred its text is not one to learn from; where it has stopped, and
        for how long, is.
        """
        size, steps, num_codebooks = len(key.rows), key.num_steps, self.info.num_codebooks
        codes = {name: np.zeros((size, num_codebooks, steps), np.int64) for name in ("user", "agent")}
        text = {n: np.full((size, 1, steps), self.info.text_pad_id, np.int64) for n in ("user_text", "agent_text")}
        active, stopped, erred = (np.zeros((size, steps), bool) for _ in range(3))
        waits, lengths = np.ones(size, bool), np.zeros(size, np.int64)
        for at, (row, start) in enumerate(zip(key.rows, key.starts, strict=True)):
            dialogue = self.dialogue(row)
            span = slice(start, start + steps)
            lengths[at] = length = dialogue.agent_text[span].size
            for name, tracks in {**codes, **text}.items():
                tracks[at, :, :length] = getattr(dialogue, name)[..., span]
            active[at, :length] = dialogue.agent_active[span] != 0
            stopped[at, :length] = self._stopped(dialogue)[span]
            said = {name: np.flatnonzero(tracks[at, 0] != self.info.text_pad_id) for name, tracks in text.items()}
            if said["agent_text"].size:
                waits[at] = said["user_text"].size > 0 and said["user_text"][0] < said["agent_text"][0]
            if (found := self._wrong_start(dialogue, key, at)) is not None:
                text["agent_text"][at, 0, :length] = found.text[span]
                begin, resumed, end = (max(0, frame - start) for frame in (found.begin, found.resumed, found.end))
                active[at, begin:resumed] = stopped[at, resumed:end] = erred[at, begin:end] = True
        marks = {"agent_active": active, "agent_stopped": stopped, "agent_erred": erred}
        rows = {"waits": waits, "lengths": lengths, "rows": np.array(key.rows)}
        arrays = {**codes, **text, **marks, **rows}
        return {name: torch.from_numpy(values) for name, values in arrays.items()}

    def dialogue(self, row: int) -> EncodedDialogue:
        """One row; its arrays are views of the file."""
        record = self._table.slice(row, 1)
        fields = {
            name: record.column(name)[0].as_buffer()
            if pa.types.is_binary(record.schema.field(name).type)
            else record.column(name)[0].as_py()
            for name in record.schema.names
        }
        return EncodedDialogue.from_row(fields)

    def _wrong_start(self, dialogue: EncodedDialogue, key: BatchKey, at: int) -> WrongStart | None:
        """That of a row which is heard, by a generator of its own, so that the same batch is the same again."""
        if not self.wrong_starts or dialogue.user[0, 0] >= self.info.codebook_size:
            return None
        rng = np.random.default_rng((key.rows[at], key.starts[at], key.num_steps))
        if rng.random() >= self.wrong_starts:
            return None
        other = self.dialogue(int(rng.integers(len(self))))
        frame_rate, pad_id = self.info.sample_rate / self.info.frame_size, self.info.text_pad_id
        mine, theirs = (Call(d.agent_text, d.meta, frame_rate, pad_id) for d in (dialogue, other))
        return wrong_start(mine, theirs, rng)

    def _stopped(self, dialogue: EncodedDialogue) -> np.ndarray:
        """Frames [T] from where the agent breaks off to its next word."""
        stopped = np.zeros(dialogue.num_frames, bool)
        said = np.flatnonzero(dialogue.agent_text != self.info.text_pad_id)
        for event in dialogue.meta.get("events", ()):
            # What else stands in the meta of other people's dialogues is theirs.
            if not isinstance(event, dict) or event.get("kind") != "agent_stops":
                continue
            if isinstance(at_s := event.get("at_s"), int | float) and 0 <= at_s < math.inf:
                first = math.ceil(at_s * self.info.sample_rate / self.info.frame_size)
                later = said[said > first]
                stopped[first : later[0] if later.size else None] = True
        return stopped

    def _map(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_table"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._table = self._map()
