"""Audio crops: what they hold, and that a resumed run sees the very same ones."""

from __future__ import annotations

import io
from pathlib import Path

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from s2s.data.audio_crops import AudioCropConfig, AudioCropDataModule, AudioCropDataset, build_cache


def _bytes(wav: np.ndarray, rate: int, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav, rate, format=kind)
    return file.getvalue()


def _ramp(clip: int, size: int) -> np.ndarray:
    """A clip whose samples tell the clip and the place they come from."""
    return ((clip * 4_000 + np.arange(size)) / 32768).astype(np.float32)


@pytest.fixture
def config(tmp_path: Path) -> AudioCropConfig:
    clips = [_bytes(_ramp(clip, 1_000 + 200 * clip), 24_000) for clip in range(6)]
    pq.write_table(pa.table({"audio": clips[:3]}), tmp_path / "plain.parquet")
    rows = [{"bytes": clip, "path": None} for clip in clips[3:]]
    pq.write_table(pa.table({"audio": rows}), tmp_path / "struct.parquet")
    files = (str(tmp_path / "plain.parquet"), str(tmp_path / "struct.parquet"))
    return AudioCropConfig(files, str(tmp_path / "cache" / "a.npy"), crop_samples=400, batch_size=4, seed=3)


def _module(config: AudioCropConfig, **changes: object) -> AudioCropDataModule:
    module = AudioCropDataModule(AudioCropConfig(**{**config.__dict__, **changes}))
    module.prepare_data()
    return module


def test_a_crop_is_a_piece_of_one_clip(config: AudioCropConfig) -> None:
    module = _module(config)
    for batch in module.train_dataloader():
        wav = batch["wav"]
        assert wav.shape == (4, 1, 400)
        assert wav.dtype == torch.float32
        pcm = (wav * 32768).round().long().squeeze(1)
        assert torch.equal(pcm.diff(dim=1), torch.ones(4, 399, dtype=torch.long))
        clip, place = pcm[:, 0] // 4_000, pcm[:, 0] % 4_000
        assert (place + 400 <= 1_000 + 200 * clip).all()


def test_every_clip_is_drawn_and_crops_differ_between_steps_and_seeds(config: AudioCropConfig) -> None:
    module = _module(config)
    data = AudioCropDataset(module.config)
    first = torch.cat([data[step]["wav"][:, 0, 0] for step in range(30)])
    assert set((first * 32768).round().long().div(4_000, rounding_mode="floor").tolist()) == set(range(6))
    assert not torch.equal(data[0]["wav"], data[1]["wav"])
    assert not torch.equal(data[0]["wav"], AudioCropDataset(_module(config, seed=4).config)[0]["wav"])


def test_kinds_are_drawn_by_their_weights_however_many_clips_they_have(config: AudioCropConfig, tmp_path: Path) -> None:
    clips = [_bytes(_ramp(clip, 1_000 + 200 * clip), 24_000) for clip in range(6)]
    kinds = ["often", "often", "often", "often", "rare", "often"]
    pq.write_table(pa.table({"audio": clips, "kind": kinds}), tmp_path / "kinds.parquet")

    def drawn(**weights: float) -> torch.Tensor:
        files = (str(tmp_path / "kinds.parquet"),)
        data = AudioCropDataset(_module(config, files=files, group="kind", weights=weights).config)
        first = torch.cat([data[step]["wav"][:, 0, 0] for step in range(100)])
        return (first * 32768).round().long().div(4_000, rounding_mode="floor")

    assert set(drawn().tolist()) == set(range(6))
    assert 0.4 < (drawn() == 4).float().mean() < 0.6
    assert 0.7 < (drawn(rare=4.0) == 4).float().mean() < 0.9
    assert set(drawn(rare=0.0).tolist()) == {0, 1, 2, 3, 5}
    with pytest.raises(ValueError, match=r"weights name \['never'\], the clips have \['often', 'rare'\]"):
        drawn(never=1.0)
    with pytest.raises(ValueError, match="allowed are numbers above 0"):
        drawn(rare=-1.0)
    with pytest.raises(ValueError, match=r"plain\.parquet has no column 'kind'"):
        _module(config, group="kind")


def test_a_short_clip_lies_in_silence(config: AudioCropConfig) -> None:
    wav = AudioCropDataset(_module(config, crop_samples=5_000).config)[0]["wav"]
    assert wav.shape == (4, 1, 5_000)
    assert ((wav != 0).sum(-1) < 2_001).all()
    assert ((wav != 0).sum(-1) > 990).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_loader_hands_out_the_same_batches(config: AudioCropConfig, num_workers: int) -> None:
    whole = [batch["wav"] for _ in range(2) for batch in _take(_module(config), None)]
    module = _module(config, num_workers=num_workers)
    loader = iter(module.train_dataloader())
    for expected in whole[:2]:
        assert torch.equal(next(loader)["wav"], expected)
    resumed = _module(config, num_workers=num_workers)
    resumed.load_state_dict(module.state_dict())
    rest = [batch["wav"] for batch in resumed.train_dataloader()]
    per_epoch = len(resumed.train_dataloader())
    assert len(rest) == per_epoch - 2
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[2:], strict=False))


def _take(module: AudioCropDataModule, count: int | None) -> list[dict[str, torch.Tensor]]:
    return list(module.train_dataloader())[:count]


def test_the_second_epoch_is_new_and_starting_workers_leaves_the_global_generator_alone(
    config: AudioCropConfig,
) -> None:
    loader = _module(config, num_workers=1).train_dataloader()
    torch.manual_seed(0)
    first = [batch["wav"] for batch in loader]
    second = [batch["wav"] for batch in loader]
    after = torch.rand(1)
    assert torch.equal(after, torch.manual_seed(0) and torch.rand(1))
    assert len(first) == len(second) == len(loader)
    assert not any(torch.equal(a, b) for a in first for b in second)


def test_two_ranks_together_see_what_one_sees(config: AudioCropConfig) -> None:
    _module(config)
    whole = AudioCropDataset(config)[7]["wav"]
    parts = [AudioCropDataset(config, rank, 2)[7]["wav"] for rank in range(2)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)


def test_other_rates_and_stereo_become_mono_at_24_khz(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(8_000) / 8_000).astype(np.float32) * 0.5
    stereo = np.stack([tone, np.zeros_like(tone)], axis=1)
    pq.write_table(pa.table({"audio": [_bytes(tone, 8_000), _bytes(stereo, 8_000, "FLAC")]}), tmp_path / "a.parquet")
    build_cache(AudioCropConfig((str(tmp_path / "a.parquet"),), str(tmp_path / "a.npy"), 100, 1))
    pcm = np.load(tmp_path / "a.npy")
    assert pcm.dtype == np.int16
    assert pcm.size == 48_000
    peaks = np.abs(pcm.reshape(2, -1)[:, 1_000:-1_000]).max(1) / 32768
    assert peaks == pytest.approx([0.5, 0.25], abs=0.01)


def test_the_cache_is_made_once_and_again_for_other_files(config: AudioCropConfig) -> None:
    path = build_cache(config)
    stamp = path.stat().st_mtime_ns
    assert build_cache(config).stat().st_mtime_ns == stamp
    build_cache(AudioCropConfig(**{**config.__dict__, "files": config.files[:1]}))
    assert np.load(path).size == 1_000 + 1_200 + 1_400
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.json", "a.npy"]


def test_bad_clips_are_left_out_within_the_budget(tmp_path: Path) -> None:
    good = _bytes(_ramp(0, 500), 24_000)
    pq.write_table(pa.table({"audio": [good, None, good[:30], b"", good]}), tmp_path / "a.parquet")
    config = AudioCropConfig((str(tmp_path / "a.parquet"),), str(tmp_path / "a.npy"), 100, 1, max_bad_fraction=0.7)
    build_cache(config)
    assert np.load(tmp_path / "a.npy").size == 1_000
    with pytest.raises(ValueError, match="3 of 5"):
        build_cache(AudioCropConfig(config.files, str(tmp_path / "b.npy"), 100, 1))
    assert not list(tmp_path.glob("b.npy*"))
    with pytest.raises(ValueError, match="no column 'sound'"):
        build_cache(AudioCropConfig(config.files, str(tmp_path / "b.npy"), 100, 1, column="sound"))


class _Recorder(lightning.LightningModule):
    """Records the batches it trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        self.seen.append(batch["wav"].clone())
        return (self.weight * batch["wav"].mean()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(config: AudioCropConfig, steps: int, out: Path, start: Path | None = None) -> list[torch.Tensor]:
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = _Recorder()
    trainer.fit(model, datamodule=AudioCropDataModule(config), ckpt_path=start)
    trainer.save_checkpoint(out)
    return model.seen


@pytest.mark.parametrize("stop", [2, 5, 6, 8])
def test_a_trainer_resumes_in_the_middle_and_at_the_end_of_an_epoch(
    config: AudioCropConfig, tmp_path: Path, stop: int
) -> None:
    whole = _fit(config, 14, tmp_path / "whole.ckpt")
    assert len(_module(config).train_dataloader()) == 5  # so 2, 6 and 8 lie inside epochs, 5 at an end
    before = _fit(config, stop, tmp_path / "part.ckpt")
    after = _fit(config, 14, tmp_path / "rest.ckpt", tmp_path / "part.ckpt")
    assert len(before) + len(after) == 14
    assert all(torch.equal(a, b) for a, b in zip(before + after, whole, strict=True))
