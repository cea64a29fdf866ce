"""Batches of encoded dialogues: what they hold, how much is filler, and that a resumed run sees the very same ones."""

from __future__ import annotations

import pickle
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data.datamodule import DialogueDataConfig, DialogueDataModule, batch_sizes, epoch_keys, padding
from s2s.data.encoded import Batch
from s2s.data.schema import EncodedDialogue
from s2s.data.shards import ShardInfo, write_shard

INFO = ShardInfo(2_500, 100, 2, 64, 300, 301)
LENGTHS = [10 + 7 * (number % 6) for number in range(23)]


def _row(number: int) -> EncodedDialogue:
    """Frame t of row n has the codes (n, t): a batch tells where it comes from."""
    steps = LENGTHS[number]
    codes = np.stack([np.full(steps, number), np.arange(steps)]).astype(np.int16)
    text = np.where(np.arange(steps) % 3 == 0, number, 301).astype(np.int16)
    return EncodedDialogue(f"d{number}", codes, codes[::-1], text, text, (np.arange(steps) % 2).astype(np.uint8))


@pytest.fixture
def config(tmp_path: Path) -> DialogueDataConfig:
    write_shard(tmp_path / "shard-00000.parquet", [_row(n) for n in range(15)], [], INFO)
    write_shard(tmp_path / "shard-00001.parquet", [_row(n) for n in range(15, 23)], [], INFO)
    return DialogueDataConfig((str(tmp_path),), batch_size=4, max_steps=30, bucket=3, seed=1)


def _module(config: DialogueDataConfig, rank: int = 0, world: int = 1) -> DialogueDataModule:
    module = DialogueDataModule(config)
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world)
    module.prepare_data()
    return module


def _same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_batch_holds_pieces_of_its_rows_and_marked_filler(config: DialogueDataConfig) -> None:
    cropped = set()
    for batch in _module(config).train_dataloader():
        steps = batch["user"].shape[-1]
        assert batch["user"].shape == batch["agent"].shape == (4, 2, steps)
        assert batch["user_text"].shape == batch["agent_text"].shape == (4, 1, steps)
        assert batch["agent_active"].shape == (4, steps)
        assert batch["agent_active"].dtype == torch.bool
        assert all(batch[name].dtype == torch.int64 for name in ("user", "agent", "user_text", "agent_text", "lengths"))
        assert steps == batch["lengths"].max() <= 30
        for at, row in enumerate(batch["rows"].tolist()):
            length = int(batch["lengths"][at])
            assert length == min(LENGTHS[row], 30)
            start = int(batch["user"][at, 1, 0])
            cropped.add((LENGTHS[row] > 30, start))
            frames = torch.arange(start, start + length)
            assert torch.equal(batch["user"][at, :, :length], torch.stack([torch.full_like(frames, row), frames]))
            assert torch.equal(batch["agent"][at, :, :length], torch.stack([frames, torch.full_like(frames, row)]))
            assert torch.equal(batch["agent_text"][at, 0, :length], torch.where(frames % 3 == 0, row, 301))
            assert torch.equal(batch["agent_active"][at, :length], frames % 2 == 1)
            assert (batch["user_text"][at, 0, length:] == 301).all()
            assert not batch["user"][at, :, length:].any()
            assert not batch["agent_active"][at, length:].any()
    assert {start for long, start in cropped if not long} == {0}
    assert len({start for long, start in cropped if long}) > 2


def test_an_epoch_is_a_permutation_and_the_next_one_another(config: DialogueDataConfig) -> None:
    loader = _module(config).train_dataloader()
    orders = [[row for batch in loader for row in batch["rows"].tolist()] for _ in range(3)]
    for order in orders:
        assert len(order) == len(set(order)) == 20
    assert orders[0] != orders[1] != orders[2]
    assert {row for order in orders for row in order} == set(range(23))  # what one epoch leaves over, others hold
    again = _module(config).train_dataloader()
    assert [row for batch in again for row in batch["rows"].tolist()] == orders[0]
    other = _module(replace(config, seed=2)).train_dataloader()
    assert [row for batch in other for row in batch["rows"].tolist()] != orders[0]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 500), min_size=4, max_size=120),
    st.integers(1, 4),
    st.integers(1, 10),
    st.integers(0, 5),
    st.booleans(),
)
def test_keys_are_valid_for_any_lengths(lengths: list[int], size: int, bucket: int, epoch: int, crop: bool) -> None:
    num_frames = np.array(lengths)
    config = DialogueDataConfig(("x",), batch_size=size, max_steps=100, bucket=bucket, random_crop=crop)
    keys = epoch_keys(config, num_frames, epoch)
    assert len(keys) == len(lengths) // size
    rows = [row for key in keys for row in key.rows]
    assert len(rows) == len(set(rows)) == len(keys) * size
    for key in keys:
        used = np.minimum(num_frames[list(key.rows)], 100)
        assert key.num_steps == used.max()
        assert (np.array(key.starts) + used <= num_frames[list(key.rows)]).all()
        assert crop or not any(key.starts)
    assert keys == epoch_keys(config, num_frames, epoch)


def test_bucketing_keeps_filler_low() -> None:
    num_frames = np.random.default_rng(0).integers(100, 900, size=3_000)
    config = DialogueDataConfig(("x",), batch_size=16, max_steps=750)
    assert padding(config, num_frames, 0) < 0.03
    assert padding(replace(config, bucket=1), num_frames, 0) > 0.2


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_resumed_loader_hands_out_the_same_batches(config: DialogueDataConfig, num_workers: int, stop: int) -> None:
    config = replace(config, num_workers=num_workers)
    wanted = _run(_module(replace(config, num_workers=0)), 12)
    first = _module(config)
    before = _run(first, stop)
    second = _module(config)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    got = before + _run(second, 12 - stop)
    assert len(got) == 12
    assert all(_same(a, b) for a, b in zip(got, wanted, strict=True))


def _run(module: DialogueDataModule, count: int) -> list[Batch]:
    """The next batches of a module, epoch after epoch, stopping in the middle of one."""
    loader = module.loader or module.train_dataloader()
    batches: list[Batch] = []
    while len(batches) < count:
        for batch in loader:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def test_a_position_is_kept_when_it_is_saved_before_the_loader_exists(config: DialogueDataConfig) -> None:
    module = _module(config)
    module.load_state_dict({"epoch": 2, "batch": 1})
    assert module.state_dict() == {"epoch": 2, "batch": 1}
    assert module.train_dataloader().state_dict() == {"epoch": 2, "batch": 1}


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_what_one_process_sees(config: DialogueDataConfig, world: int) -> None:
    whole = _run(_module(config), 7)
    parts = [_run(_module(config, rank, world), 7) for rank in range(world)]
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        for name, values in batch.items():
            assert torch.equal(torch.stack([share[name] for share in shares], dim=1).flatten(0, 1), values)


def test_a_batch_that_ranks_cannot_share_is_refused(config: DialogueDataConfig) -> None:
    with pytest.raises(ValueError, match="multiple of the 3"):
        _module(config, 0, 3).train_dataloader()
    with pytest.raises(ValueError, match="23 dialogues do not fill one batch of 64"):
        _module(replace(config, batch_size=64)).train_dataloader()
    with pytest.raises(ValueError, match="max_steps 0"):
        replace(config, max_steps=0)


def test_validation_is_every_row_from_its_start_and_always_the_same(config: DialogueDataConfig) -> None:
    config = replace(config, val_shards=config.shards, max_steps=20)
    loader = _module(config).val_dataloader()
    batches = list(loader)
    assert len(loader) == len(batches) == 6
    assert sorted(row for batch in batches for row in batch["rows"].tolist()) == list(range(23))
    assert all((batch["user"][:, 1, 0] == 0).all() for batch in batches)
    next(iter(loader))
    assert all(_same(a, b) for a, b in zip(batches, loader, strict=True))
    assert [sum(len(b["rows"]) for b in _module(config, r, 2).val_dataloader()) for r in range(2)] == [10, 10]
    assert _module(replace(config, val_shards=())).val_dataloader() == []


def test_the_mapped_copy_is_made_once_and_follows_the_shards(config: DialogueDataConfig, tmp_path: Path) -> None:
    config = replace(config, cache=str(tmp_path / "cache"))
    _module(config)
    first = list((tmp_path / "cache").iterdir())
    _module(config).train_dataloader()
    assert list((tmp_path / "cache").iterdir()) == first
    assert len(first) == 1
    write_shard(tmp_path / "shard-00002.parquet", [_row(3)], [], INFO)
    assert len(_module(config).train_dataloader().dataset) == 24


def test_a_dataset_can_be_sent_to_another_process(config: DialogueDataConfig) -> None:
    dataset = _module(config).train_dataloader().dataset
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy.dialogue(5).user, dataset.dialogue(5).user)


def test_shards_of_two_codecs_do_not_mix(config: DialogueDataConfig, tmp_path: Path) -> None:
    write_shard(tmp_path / "shard-00002.parquet", [_row(3)], [], ShardInfo(**{**asdict(INFO), "codec": "other"}))
    with pytest.raises(ValueError, match="codec 'other' against ''"):
        _module(config)


class _Recorder(lightning.LightningModule):
    """Trains a number on random drop-out, and records the rows it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        self.seen.append(batch["rows"].tolist())
        return (self.weight * batch["user"].float().mean()).sum()

    def validation_step(self, batch: Batch, index: int) -> None:
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def _fit(config: DialogueDataConfig, steps: int, out: Path, start: Path | None = None) -> list[list[int]]:
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        limit_val_batches=2,
    )
    model = _Recorder()
    trainer.fit(model, datamodule=DialogueDataModule(config), ckpt_path=start)
    trainer.save_checkpoint(out)
    return model.seen


@pytest.mark.parametrize("stop", [2, 3, 5, 8])
def test_a_trainer_resumes_in_the_middle_and_at_the_end_of_an_epoch(
    config: DialogueDataConfig, tmp_path: Path, stop: int
) -> None:
    config = replace(config, val_shards=config.shards)
    whole = _fit(config, 13, tmp_path / "whole.ckpt")
    before = _fit(config, stop, tmp_path / "part.ckpt")
    assert before + _fit(config, 13, tmp_path / "rest.ckpt", tmp_path / "part.ckpt") == whole


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 300), min_size=8, max_size=200), st.integers(0, 3), st.sampled_from([1, 2, 4]))
def test_batches_filled_by_frames_hold_about_as_many(lengths: list[int], epoch: int, world: int) -> None:
    num_frames = np.array(lengths)
    config = DialogueDataConfig(("x",), batch_steps=400, max_steps=100)
    keys = epoch_keys(config, num_frames, epoch, world)
    rows = [row for key in keys for row in key.rows]
    assert len(rows) == len(set(rows)) == len(lengths) // world * world
    assert len(keys) == len(batch_sizes(config, num_frames, world)) == len(epoch_keys(config, num_frames, 9, world))
    for key in keys:
        assert len(key.rows) % world == 0
        # Lengths are blurred by 5 % on both sides, so a batch can be that much over.
        assert len(key.rows) * key.num_steps <= 400 * 1.15 or len(key.rows) == world
    assert keys == epoch_keys(config, num_frames, epoch, world)


def test_fewer_frames_than_one_row_may_have_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_steps 50 must be 0 or at least max_steps"):
        DialogueDataConfig(("x",), batch_steps=50, max_steps=100)


def test_few_rows_are_enough_where_batches_are_filled_by_frames(config: DialogueDataConfig) -> None:
    config = replace(config, batch_size=64, batch_steps=10_000)
    assert [len(batch["rows"]) for batch in _module(config).train_dataloader()] == [23]


def test_who_speaks_first_is_seen_in_the_transcripts(tmp_path: Path) -> None:
    rows = []
    for number, (user, agent) in enumerate([(3, 9), (9, 3), (None, 3), (3, None), (None, None)]):
        row = replace(
            _row(0), id=f"d{number}", user_text=np.full(10, 301, np.int16), agent_text=np.full(10, 301, np.int16)
        )
        for track, at in ((row.user_text, user), (row.agent_text, agent)):
            if at is not None:
                track[at] = 5
        rows.append(row)
    write_shard(tmp_path / "shard-00000.parquet", rows, [], INFO)
    module = _module(DialogueDataConfig((str(tmp_path),), batch_size=5))
    batch = next(iter(module.train_dataloader()))
    waits = dict(zip(batch["rows"].tolist(), batch["waits"].tolist(), strict=True))
    assert waits == {0: True, 1: False, 2: False, 3: True, 4: True}


def test_batches_filled_by_frames_are_nearly_full() -> None:
    num_frames = np.random.default_rng(0).integers(40, 600, size=3_000)
    config = DialogueDataConfig(("x",), batch_steps=4_000, max_steps=620)
    filled = [len(key.rows) * key.num_steps for key in epoch_keys(config, num_frames, 0)]
    assert sum(filled) / len(filled) > 3_400
    assert padding(config, num_frames, 0) < 0.07


def test_the_agent_has_stopped_from_where_it_breaks_off_to_its_next_word(tmp_path: Path) -> None:
    text = np.full(10, 301, np.int16)
    text[[1, 3, 8]] = 5
    step_s = INFO.frame_size / INFO.sample_rate
    events = [
        [{"kind": "agent_stops", "at_s": 3.5 * step_s}],
        [{"kind": "agent_stops", "at_s": 8.5 * step_s}],
        [{"kind": "backchannel", "start_s": 0.1}, "a note of somebody else's"],
        [{"kind": "agent_stops"}, {"kind": "agent_stops", "at_s": "soon"}, {"kind": "agent_stops", "at_s": -1.0}],
        [],
    ]
    rows = [replace(_row(0), id=f"d{n}", agent_text=text, meta={"events": each}) for n, each in enumerate(events)]
    write_shard(tmp_path / "shard-00000.parquet", rows, [], INFO)
    batch = next(iter(_module(DialogueDataConfig((str(tmp_path),), batch_size=5)).train_dataloader()))
    found = {
        int(row): stopped.nonzero()[:, 0].tolist()
        for row, stopped in zip(batch["rows"], batch["agent_stopped"], strict=True)
    }
    assert found == {0: [4, 5, 6, 7], 1: [9], 2: [], 3: [], 4: []}
