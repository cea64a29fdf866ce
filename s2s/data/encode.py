"""Dialogues to parquet shards of codes and aligned text: resumable, repeatable, corrupt rows set aside."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from s2s.audio.resample import resample
from s2s.codec.base import Codec
from s2s.config import to_dict
from s2s.data.align import AGENT_LEAD_STEPS, USER_LAG_STEPS, actions_to_steps, hurried, pad_id, words_to_steps
from s2s.data.augment import AugmentConfig, augment_caller
from s2s.data.dialogues import DialogueSource
from s2s.data.schema import Dialogue, EncodedDialogue
from s2s.data.shards import QUARANTINE, BadRow, ShardInfo, read_shard, shard_path, write_quarantine, write_shard
from s2s.text import Tokenizer

log = logging.getLogger(__name__)

Item = TypeVar("Item")


@dataclass(frozen=True)
class EncodeConfig:
    """How to encode.

    The source is gone through `passes` times, each with augmentation of its own. `part` of `parts` processes may work
    on one folder. `chunk_s` of audio is encoded at a time. More than `max_bad_fraction` corrupt rows fail the run.
    """

    rows_per_shard: int = 64
    batch_size: int = 8
    chunk_s: float = 20.0
    max_bad_fraction: float = 0.01
    lead_steps: int = AGENT_LEAD_STEPS
    lag_steps: int = USER_LAG_STEPS
    passes: int = 1
    augment: AugmentConfig | None = None
    seed: int = 0
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        for name in ("rows_per_shard", "batch_size", "passes", "parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part {self.part} must be 0 to {self.parts - 1}")


@dataclass(frozen=True)
class EncodeProgress:
    """How far a run is, rows of shards that were there already included."""

    rows: int
    num_rows: int
    bad_rows: int
    shards: int
    num_shards: int
    audio_s: float


class EncodeError(ValueError):
    """Too many rows are corrupt."""


class Encoder:
    """Encodes batches of dialogues with one codec and one tokenizer."""

    def __init__(
        self,
        codec: Codec,
        tokenizer: Tokenizer,
        config: EncodeConfig,
        noises: Sequence[np.ndarray] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.codec, self.tokenizer, self.config = codec, tokenizer, config
        self.noises, self._device = noises, device
        if isinstance(codec, torch.nn.Module):
            codec.eval()
        self._step_s: Fraction = 1 / codec.spec.frame_rate

    def prepare(self, dialogue: Dialogue, row: int) -> Dialogue:
        """The checked dialogue at the codec's rate, the caller augmented; ValueError when it is corrupt."""
        dialogue.check()
        if unknown := {action.name for action in dialogue.actions} - set(self.tokenizer.actions):
            raise ValueError(f"actions {sorted(unknown)} are none of the tokenizer's: {sorted(self.tokenizer.actions)}")
        rate = self.codec.spec.sample_rate
        user = resample(dialogue.user, dialogue.sample_rate, rate)
        agent = resample(dialogue.agent, dialogue.sample_rate, rate)
        if self.config.augment:
            user = augment_caller(user, agent, rate, self.config.augment, (self.config.seed, row), self.noises)
        return replace(dialogue, user=user, agent=agent, sample_rate=rate)

    def encode(self, dialogues: Sequence[Dialogue], source: str) -> list[EncodedDialogue]:
        """Rows of the encoded table of prepared dialogues; the last frame of each is filled with silence."""
        spec = self.codec.spec
        size = spec.frame_size
        frames = [-(-dialogue.num_samples // size) for dialogue in dialogues]
        wav = np.zeros((2 * len(dialogues), 1, max(frames) * size), dtype=np.float32)
        for row, dialogue in enumerate(dialogues):
            wav[2 * row, 0, : dialogue.num_samples] = dialogue.user
            wav[2 * row + 1, 0, : dialogue.num_samples] = dialogue.agent
        # The id behind those of the codes, which a stream has for a step without one, is what written tracks hold.
        codes = np.full((len(wav), spec.num_codebooks, max(frames)), spec.codebook_size + 1, np.int16)
        sounds = np.array([name not in d.written for d in dialogues for name in ("user", "agent")])
        if sounds.any():
            codes[sounds] = self._codes(torch.from_numpy(wav[sounds]))
        return [
            self._row(dialogue, source, codes[2 * row : 2 * row + 2, :, :count], wav[2 * row + 1, 0, : count * size])
            for row, (dialogue, count) in enumerate(zip(dialogues, frames, strict=True))
        ]

    def _codes(self, wav: torch.Tensor) -> np.ndarray:
        """wav [B, 1, N] -> int16 [B, K, T], chunk by chunk through the codec's streaming state."""
        size = self.codec.spec.frame_size
        chunk = max(1, round(self.config.chunk_s * self.codec.spec.frame_rate)) * size
        with torch.inference_mode():
            state = self.codec.init_encoder(wav.shape[0])
            parts = [self.codec.encode(piece.to(self._device), state).cpu() for piece in wav.split(chunk, dim=-1)]
        return torch.cat(parts, dim=-1).numpy().astype(np.int16)

    def _row(self, dialogue: Dialogue, source: str, codes: np.ndarray, agent: np.ndarray) -> EncodedDialogue:
        num_frames, config = codes.shape[-1], self.config
        step_s = self._step_s
        agent_text = words_to_steps(dialogue.agent_words, self.tokenizer, num_frames, step_s, config.lead_steps)
        actions_to_steps(agent_text, dialogue.actions, self.tokenizer, step_s, config.lead_steps)
        row = EncodedDialogue(
            id=dialogue.id,
            user=codes[0],
            agent=codes[1],
            user_text=words_to_steps(dialogue.user_words, self.tokenizer, num_frames, step_s, -config.lag_steps, "end"),
            agent_text=agent_text,
            agent_active=active_frames(agent, self.codec.spec.frame_size),
            source=source,
            meta=dialogue.meta,
        )
        return hurried(row, dialogue.pace, pad_id(self.tokenizer)) if dialogue.pace < 1 else row


def encode_dialogues(
    source: DialogueSource,
    encoder: Encoder,
    folder: Path | str,
    progress: Callable[[EncodeProgress], None] | None = None,
) -> EncodeProgress:
    """Encodes `source` into `folder`/shard-*.parquet and returns the final count.

    Finished shards are skipped; they, the order of rows and every byte are the same however often a run was stopped.
    Corrupt rows stand with their reason in `folder`/quarantine.jsonl. Raises EncodeError once more than the budget of
    rows is corrupt, ValueError when the folder holds shards made from something else.
    """
    folder, config = Path(folder), encoder.config
    folder.mkdir(parents=True, exist_ok=True)
    info = _info(source, encoder)
    num_rows = len(source) * config.passes
    if num_rows == 0:
        raise ValueError(f"{source.name} holds no dialogues")
    (folder / "tokenizer.json").write_text(encoder.tokenizer.to_json(), encoding="utf-8")
    try:
        return _encode_shards(source, encoder, folder, info, progress)
    finally:
        write_quarantine(folder)


def _encode_shards(
    source: DialogueSource,
    encoder: Encoder,
    folder: Path,
    info: ShardInfo,
    progress: Callable[[EncodeProgress], None] | None,
) -> EncodeProgress:
    config, num_rows = encoder.config, len(source) * encoder.config.passes
    starts = range(0, num_rows, config.rows_per_shard)
    shards = [range(at, min(at + config.rows_per_shard, num_rows)) for at in starts]
    mine = range(config.part, len(shards), config.parts)
    count = EncodeProgress(0, sum(len(shards[number]) for number in mine), 0, 0, len(mine), 0.0)
    for number in mine:
        path = shard_path(folder, number)
        if not path.exists():
            write_shard(path, *_encode_rows(source, encoder, shards[number]), info)
        stored = read_shard(path)
        if stored.info != info:
            raise ValueError(f"{path} was made from something else ({stored.info.difference(info)}); use a new folder")
        count = replace(
            count,
            rows=count.rows + len(shards[number]),
            bad_rows=count.bad_rows + len(stored.bad),
            shards=count.shards + 1,
            audio_s=count.audio_s + float(stored.num_frames / encoder.codec.spec.frame_rate),
        )
        if progress:
            progress(count)
        if count.bad_rows > config.max_bad_fraction * count.num_rows:
            raise EncodeError(
                f"{count.bad_rows} of {count.rows} rows are corrupt, allowed are {config.max_bad_fraction:.1%} of "
                f"{count.num_rows}; reasons in {folder / QUARANTINE}, the last: {stored.bad[-1].reason}"
            )
    return count


def active_frames(wav: np.ndarray, frame_size: int) -> np.ndarray:
    """uint8 [T]: 1 where wav [T * frame_size] is within 40 dB of its loud part, and one frame around that."""
    power = np.square(wav.reshape(-1, frame_size), dtype=np.float64).mean(axis=1)
    loud = float(np.quantile(power, 0.98)) if power.size else 0.0
    active = power > max(1e-4 * max(loud, float(power.max(initial=0.0)) * 0.1), 1e-7)
    wide = active.copy()
    wide[1:] |= active[:-1]
    wide[:-1] |= active[1:]
    return wide.astype(np.uint8)


def _encode_rows(source: DialogueSource, encoder: Encoder, rows: range) -> tuple[list[EncodedDialogue], list[BadRow]]:
    """Encoded dialogues in the order of rows, and the rows that are corrupt.

    A few batches are read at a time and sorted by length, so that little silence is encoded. Batches depend on nothing
    but the rows, because a codec's rounding may depend on its batch.
    """
    done: dict[int, EncodedDialogue] = {}
    bad: list[BadRow] = []
    size = encoder.config.batch_size
    for pool in _chunks(rows, 4 * size):
        ready: list[tuple[int, Dialogue]] = []
        for row in pool:
            number = row % len(source)
            try:
                dialogue = encoder.prepare(source[number], row)
                if encoder.config.passes > 1:
                    dialogue.id += f"#{row // len(source)}"
                ready.append((row, dialogue))
            except ValueError as error:
                bad.append(BadRow(row, source.row_id(number), str(error)))
                log.warning("%s row %d (%s) set aside: %s", source.name, row, bad[-1].id, error)
        ready.sort(key=lambda item: item[1].num_samples)
        for batch in _chunks(ready, size):
            encoded = encoder.encode([dialogue for _, dialogue in batch], source.name)
            done.update(zip((row for row, _ in batch), encoded, strict=True))
    return [done[row] for row in sorted(done)], bad


def _info(source: DialogueSource, encoder: Encoder) -> ShardInfo:
    config = encoder.config
    spec = encoder.codec.spec
    recipe = {
        "source": source.name,
        "num_rows": len(source),
        "augment": to_dict(config.augment) if config.augment else None,
        "noise_samples": [int(noise.size) for noise in encoder.noises],
        **{name: getattr(config, name) for name in ("rows_per_shard", "batch_size", "chunk_s", "passes", "seed")},
        **{name: getattr(config, name) for name in ("lead_steps", "lag_steps")},
    }
    return ShardInfo(
        sample_rate=spec.sample_rate,
        frame_size=spec.frame_size,
        num_codebooks=spec.num_codebooks,
        codebook_size=spec.codebook_size,
        text_vocab_size=encoder.tokenizer.vocab_size,
        text_pad_id=pad_id(encoder.tokenizer),
        tokenizer=hashlib.sha256(encoder.tokenizer.to_json().encode()).hexdigest()[:16],
        codec=_tokens_hash(encoder.codec),
        recipe=recipe,
    )


def _tokens_hash(codec: Codec) -> str:
    """Tells codecs apart by the weights that make tokens, all but the decoder's; one without weights by its class."""
    digest = hashlib.sha256(type(codec).__name__.encode())
    if isinstance(codec, torch.nn.Module):
        for name, value in sorted(codec.state_dict().items()):
            if not name.startswith("decoder."):
                digest.update(name.encode())
                digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
