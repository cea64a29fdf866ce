"""Sampling: a draw is a function of a row's own logits, settings, seed and position."""

from __future__ import annotations

import pytest
import torch

from s2s.nn.sampling import Controls, sample, uniform_draws


def controls(temperature: list[float], top_k: list[int], seed: int = 0) -> Controls:
    seeds = torch.full((len(top_k),), seed)
    return Controls(torch.tensor(temperature), torch.tensor(top_k), seeds)


def test_draws_are_uniform_between_zero_and_one() -> None:
    draws = uniform_draws(torch.arange(50), torch.zeros(50, dtype=torch.long), 400)
    assert draws.shape == (50, 400) and draws.dtype == torch.float64
    assert draws.min() > 0 and draws.max() < 1
    ordered = draws.flatten().sort().values
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by one honest generator in a thousand.
    assert (ordered - torch.linspace(0, 1, len(ordered))).abs().max() < 1.95 / len(ordered) ** 0.5
    for other in (draws.roll(1, 0), draws.roll(1, 1)):
        assert torch.corrcoef(torch.stack([draws.flatten(), other.flatten()]))[0, 1].abs() < 0.025


def test_a_draw_depends_on_seed_position_and_index_alone() -> None:
    seed, position = torch.tensor([3, 4, 3, 3]), torch.tensor([9, 9, 10, 9])
    draws = uniform_draws(seed, position, 5)
    assert torch.equal(draws[0], draws[3])
    assert torch.equal(draws, uniform_draws(seed, position, 8)[:, :5])
    assert torch.equal(draws[2:3], uniform_draws(seed[2:3], position[2:3], 5))
    assert not (draws[0] == draws[1]).any() and not (draws[0] == draws[2]).any()
    assert len(draws[:3].unique()) == 15


def test_negative_and_large_seeds_are_seeds() -> None:
    seeds = torch.tensor([-1, 2**62, -(2**63), 0])
    draws = uniform_draws(seeds, torch.full((4,), 10**12), 3)
    assert len(draws.unique()) == 12
    assert draws.min() > 0 and draws.max() < 1


def test_temperature_zero_takes_the_most_likely() -> None:
    logits = torch.randn(200, 7)
    ids = sample(logits, controls([0.0] * 200, [0, 3] * 100), torch.rand(200))
    assert torch.equal(ids, logits.argmax(dim=-1))


def test_top_k_leaves_the_most_likely() -> None:
    logits = torch.randn(2000, 11)
    k = torch.arange(2000) % 11 + 1
    ids = sample(logits, Controls(torch.full((2000,), 50.0), k, k), torch.rand(2000, dtype=torch.float64))
    rank = (logits > logits.gather(1, ids[:, None])).sum(dim=-1)
    assert (rank < k).all()
    assert all((rank[k == limit] == limit - 1).any() for limit in range(1, 12))
    assert torch.equal(ids[k == 1], logits.argmax(dim=-1)[k == 1])


def test_top_k_of_a_large_vocabulary() -> None:
    logits = torch.randn(500, 1000)
    ids = sample(logits, controls([50.0] * 500, [256] * 500), torch.rand(500, dtype=torch.float64))
    rank = (logits > logits.gather(1, ids[:, None])).sum(dim=-1)
    assert rank.max() < 256 and rank.max() > 200
    every = sample(logits, controls([50.0] * 500, [0] * 500), torch.rand(500, dtype=torch.float64))
    assert (logits > logits.gather(1, every[:, None])).sum(dim=-1).max() > 900


def test_top_k_beyond_the_vocabulary_is_all() -> None:
    logits, draw = torch.randn(50, 4), torch.rand(50)
    beyond = sample(logits, controls([1.0] * 50, [99] * 50), draw)
    assert torch.equal(beyond, sample(logits, controls([1.0] * 50, [0] * 50), draw))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_distribution(temperature: float) -> None:
    logits = torch.tensor([0.0, 2.0, -1.0, 1.0, 0.5])
    count = 40_000
    draws = uniform_draws(torch.arange(count), torch.full((count,), 3), 1)[:, 0]
    ids = sample(logits.expand(count, -1), controls([temperature] * count, [0] * count), draws)
    expected = (logits / temperature).softmax(dim=-1)
    # Five standard deviations of a share.
    tolerance = 5 * (expected * (1 - expected) / count).sqrt()
    assert ((ids.bincount(minlength=5) / count - expected).abs() < tolerance).all()


@pytest.mark.parametrize("draw", [2.0**-54, 0.5, 1 - 2.0**-53, 1.0])
def test_impossible_tokens_are_never_drawn(draw: float) -> None:
    logits = torch.tensor([[-float("inf"), 1.0, -200.0, -float("inf")]])
    ids = sample(logits, controls([1.0], [0]), torch.tensor([draw], dtype=torch.float64))
    assert ids.tolist() == [1]


def test_a_row_never_sees_its_neighbours() -> None:
    logits, draw = torch.randn(6, 9), torch.rand(6, dtype=torch.float64)
    settings = Controls(torch.tensor([0.0, 0.5, 1, 2, 0.8, 1]), torch.tensor([0, 1, 3, 0, 5, 2]), torch.arange(6))
    ids = sample(logits, settings, draw)
    for row in range(6):
        one = slice(row, row + 1)
        alone = Controls(settings.temperature[one], settings.top_k[one], settings.seed[one])
        assert torch.equal(sample(logits[one], alone, draw[one]), ids[one])


def test_low_temperature_is_greedy_and_finite() -> None:
    logits = torch.randn(50, 9) * 1e4
    assert torch.equal(sample(logits, controls([1e-30] * 50, [0] * 50), torch.rand(50)), logits.argmax(dim=-1))


def test_uniform_controls_give_rows_seeds_of_their_own() -> None:
    same = Controls.uniform(3, temperature=0.7, top_k=20, seed=5)
    assert same.seed.tolist() == [5, 6, 7]
    assert same.temperature.tolist() == pytest.approx([0.7] * 3) and same.top_k.tolist() == [20] * 3
    with pytest.raises(ValueError, match=r"temperature is -1, allowed is 0 \(greedy\) and above"):
        Controls.uniform(1, temperature=-1)
    for top_k in (-5, 257):
        with pytest.raises(ValueError, match=rf"top_k is {top_k}, allowed is 0 \(all tokens\) and 1 to 256"):
            Controls.uniform(1, top_k=top_k)
