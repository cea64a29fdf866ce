"""Residual vector quantisation: what it codes, and how its codebooks learn."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from s2s.codec.rvq import ResidualVectorQuantizer, at_least_float32


def quantizer(levels: int = 3, size: int = 7, dim: int = 4, **settings: float) -> ResidualVectorQuantizer:
    return ResidualVectorQuantizer(levels, size, dim, **settings).eval()


def test_every_level_takes_the_nearest_entry_of_what_is_left() -> None:
    rvq, x = quantizer(), torch.randn(2, 9, 4)
    codes = rvq.encode(x)
    assert codes.shape == (2, 3, 9) and codes.dtype == torch.int64
    for b in range(2):
        for t in range(9):
            rest = x[b, t]
            for k in range(3):
                distances = (rvq.codebooks[k] - rest).norm(dim=-1)
                assert int(codes[b, k, t]) == int(distances.argmin())
                rest = rest - rvq.codebooks[k][codes[b, k, t]]


def test_decoding_sums_the_entries_of_the_levels_given() -> None:
    rvq, codes = quantizer(), torch.randint(7, (2, 3, 5))
    for levels in (1, 2, 3):
        expected = torch.stack([rvq.codebooks[k][codes[:, k]] for k in range(levels)]).sum(dim=0)
        torch.testing.assert_close(rvq.decode(codes[:, :levels]), expected)


def test_codes_of_separated_levels_survive_the_round_trip() -> None:
    rvq = quantizer()
    rvq.codebooks *= torch.tensor([100.0, 1.0, 0.01])[:, None, None]
    codes = torch.randint(7, (2, 3, 50))
    assert torch.equal(rvq.encode(rvq.decode(codes)), codes)


def test_training_and_serving_give_the_same_codes() -> None:
    rvq, x = quantizer(), torch.randn(2, 9, 4)
    before = {name: value.clone() for name, value in rvq.state_dict().items()}
    result = rvq(x)
    assert torch.equal(result.codes, rvq.encode(x))
    torch.testing.assert_close(result.vectors, rvq.decode(result.codes))
    assert all(torch.equal(before[name], value) for name, value in rvq.state_dict().items())


def test_the_gradient_passes_straight_through() -> None:
    rvq, x = quantizer(), torch.randn(2, 9, 4, requires_grad=True)
    weights = torch.randn(2, 9, 4)
    (rvq(x).vectors * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weights)


def test_the_commitment_is_the_mean_distance_over_levels() -> None:
    rvq, x = quantizer(), torch.randn(2, 9, 4)
    result = rvq(x)
    partial = [rvq.decode(result.codes[:, : k + 1]) for k in range(3)]
    expected = torch.stack([(x - y).square().mean() for y in partial]).mean()
    torch.testing.assert_close(result.commitment, expected)


def test_rows_drop_their_last_levels() -> None:
    rvq, x = quantizer(), torch.randn(3, 9, 4)
    levels = torch.tensor([3, 1, 2])
    result = rvq(x, levels)
    for row, count in enumerate(levels.tolist()):
        torch.testing.assert_close(result.vectors[row], rvq.decode(result.codes[row : row + 1, :count])[0])


def test_levels_no_row_uses_learn_nothing_and_begin_later() -> None:
    rvq, x = quantizer().train(), torch.randn(2, 9, 4)
    rvq(x, torch.tensor([1, 1]))
    assert rvq.started.tolist() == [True, False, False]
    rvq(x, torch.tensor([3, 1]))
    assert rvq.started.all()
    assert rvq.codebooks.isfinite().all()


def test_dropped_rows_do_not_move_the_codebooks() -> None:
    """The second level sees only what is left of the rows that use it."""
    x = torch.randn(2, 9, 4)
    updated = []
    for other in (x[1], 100 * x[1]):
        torch.manual_seed(0)
        rvq = quantizer(levels=2).train()
        rvq.started[:] = True
        both = torch.stack([x[0], other])
        rvq._update(0, both.flatten(0, 1)[:0], torch.zeros(0, dtype=torch.long))
        rvq(both, torch.tensor([2, 1]))
        updated.append(rvq.codebooks[1].clone())
    assert torch.equal(updated[0], updated[1])


def train_in_process(rank: int, folder: Path) -> None:
    """Three steps in one of two processes; the second has no row for level 1 at first, the first never for level 2."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    rvq = ResidualVectorQuantizer(3, 5, 4, decay=0.5, revive_below=0.4).train()
    for buffer in rvq.buffers():
        dist.broadcast(buffer, 0)
    for step in range(4):
        levels = torch.tensor([2, 2] if rank == 0 else [3, 3] if step else [1, 1])
        rvq(torch.randn(2, 6, 4), levels)
    torch.save(rvq.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_processes_without_rows_for_a_level_wait_for_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=train_in_process, args=(rank, tmp_path), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0, "the processes wait for each other"
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["started"].tolist() == [True, True, False]
    for name in first:
        torch.testing.assert_close(first[name], second[name])


def test_codebooks_begin_with_vectors_of_the_first_batch() -> None:
    rvq = quantizer(levels=1).train()
    x = 1000 + torch.randn(1, 500, 4)
    rvq(x)
    assert rvq.started.all()
    assert (rvq.codebooks[0] - 1000).abs().max() < 10


def test_entries_move_to_the_middle_of_what_they_code() -> None:
    rvq = quantizer(levels=1, size=2, decay=0.5).train()
    middles = torch.tensor([[5.0, 0, 0, 0], [-5.0, 0, 0, 0]])
    for _ in range(40):
        which = torch.randint(2, (1, 200))
        rvq(middles[which] + 0.1 * torch.randn(1, 200, 4))
    found = rvq.codebooks[0][rvq.codebooks[0, :, 0].argsort(descending=True)]
    torch.testing.assert_close(found, middles, rtol=0, atol=0.1)


def test_dead_entries_come_back_as_vectors_of_the_batch() -> None:
    rvq = quantizer(levels=1, size=3, decay=0.5, revive_below=0.1).train()
    x = 7 + torch.randn(1, 60, 4)
    rvq(x)
    rvq.codebooks[0, 1] = rvq.sums[0, 1] = 1e4
    for _ in range(3):
        rvq(x)
        assert (rvq.codebooks[0, 1] > 100).all(), "an entry is given time before it counts as dead"
    for _ in range(3):
        rvq(x)
    assert (rvq.codebooks[0, 1] - 7).abs().max() < 10
    assert (rvq.usage[0] >= 0.1).all()
    for _ in range(5):
        result = rvq(x)
    assert sorted(result.codes.unique().tolist()) == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    rvq, x = quantizer().to(dtype), torch.randn(1, 5, 4, dtype=dtype)
    assert rvq(x).vectors.dtype == rvq.decode(rvq.encode(x)).dtype == dtype


def test_half_precision_inputs_are_compared_in_float32() -> None:
    """Entries 0.1 % apart are one number in bfloat16."""
    rvq = quantizer(levels=1, size=64, dim=1)
    rvq.codebooks[0] = 1 + torch.arange(64)[:, None] / 1000
    x = torch.tensor([[[1.0], [1.0625]]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rvq.encode(x).tolist() == [[[0, 62]]]
        assert rvq(x).codes.tolist() == [[[0, 62]]]
    assert at_least_float32(x).dtype == torch.float32
