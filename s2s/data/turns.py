"""Single turns cut from encoded calls: mostly a caller's words, for a model that begins to understand them.

A call is half silence and replies. A turn is what the caller says and the beginning of the reply, so an hour of turns
shows a model about twice as many utterances as an hour of calls. Turns whose reply depends on the call so far are left
out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from s2s.data.schema import EncodedDialogue
from s2s.data.shards import read_shard, shard_files, shard_path, write_shard


@dataclass(frozen=True)
class TurnConfig:
    """How much stands before the caller's first word and how much of the reply behind it, in seconds."""

    before_s: tuple[float, float] = (0.1, 0.6)
    reply_s: float = 1.5
    seed: int = 0


def cut_turns(
    call: EncodedDialogue, frame_s: Fraction, config: TurnConfig, rng: np.random.Generator
) -> Iterator[EncodedDialogue]:
    """The turns of a call whose meta has turns as the composer writes them, and whose reply needs no context."""
    for number, turn in enumerate(call.meta.get("turns", ())):
        if turn["barge_in"] or turn["reply"] not in (turn["intent"], "give_number"):
            continue
        start = max(0, int((turn["start_s"] - rng.uniform(*config.before_s)) / frame_s))
        end = min(call.num_frames, int((turn["reply_start_s"] + config.reply_s) / frame_s))
        tracks = {
            name: getattr(call, name)[..., start:end]
            for name in ("user", "agent", "user_text", "agent_text", "agent_active")
        }
        meta = {"intent": turn["intent"], "call": call.id, "split": call.meta.get("split", "")}
        yield replace(call, id=f"{call.id}/{number}", meta=meta, **tracks)


def write_turns(shards: str | Path, folder: str | Path, config: TurnConfig | None = None) -> int:
    """Cut the turns of all calls of `shards` (a file or folder) into shards of `folder`; returns how many.

    Raises ValueError where there are no shards, or no turns in them.
    """
    config, folder, count = config or TurnConfig(), Path(folder), 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(shard_files([shards])):
        info = read_shard(path).info
        rng, frame_s = np.random.default_rng((config.seed, number)), Fraction(info.frame_size, info.sample_rate)
        calls = (EncodedDialogue.from_row(row) for row in pq.read_table(path).to_pylist())
        turns = [turn for call in calls for turn in cut_turns(call, frame_s, config, rng)]
        recipe = {**info.recipe, "turns": {"before_s": config.before_s, "reply_s": config.reply_s, "seed": config.seed}}
        if turns:
            write_shard(shard_path(folder, number), turns, [], replace(info, recipe=recipe))
        count += len(turns)
    if not count:
        raise ValueError(f"{shards}: the calls name no turns in their meta, so there is nothing to cut")
    tokenizer = Path(shards) / "tokenizer.json"
    if tokenizer.is_file():
        (folder / "tokenizer.json").write_text(tokenizer.read_text("utf-8"), "utf-8")
    return count
