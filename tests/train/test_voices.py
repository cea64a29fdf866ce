"""Colours of voices are exchanged between rows; what is not heard stays."""

from __future__ import annotations

import torch

from s2s.train.module import DuplexModule
from s2s.train.objective import DuplexTrainConfig
from s2s.train.voices import mixed, other_voices
from tests.tiny import random_tracks, tiny_layout, tiny_model


def test_a_row_takes_the_colour_of_another_and_keeps_its_words() -> None:
    torch.manual_seed(3)
    x = torch.randn(6, 50, 8) * torch.rand(6, 1, 8) + torch.randn(6, 1, 8)
    heard = torch.ones(6, 50, dtype=torch.bool)
    heard[0, 30:], heard[5] = False, False
    out = mixed(x, heard, 1.0)
    assert torch.equal(out[5], x[5]) and torch.equal(out[0, 30:], x[0, 30:])
    means = [row[h].mean(dim=0) for row, h in zip(x[:5], heard[:5], strict=True)]
    new = [row[h].mean(dim=0) for row, h in zip(out[:5], heard[:5], strict=True)]
    for i in range(5):
        # On the way to the row before, the same part of it in every feature.
        part = (new[i] - means[i]) / (means[i - 1] - means[i])
        assert part.std() < 1e-3 and -1e-4 <= part.mean() <= 1 + 1e-4
    flat, old = ((row - row.mean(dim=0)) / row.std(dim=0) for row in (out[1], x[1]))
    assert torch.allclose(flat, old, atol=1e-4), "what differs from step to step is what is said"
    assert any(not torch.allclose(a, b, atol=1e-2) for a, b in zip(new, means, strict=True))


def test_no_share_and_a_single_row_change_nothing() -> None:
    x, heard = torch.randn(3, 9, 4), torch.ones(3, 9, dtype=torch.bool)
    assert torch.equal(mixed(x, heard, 0.0), x)
    assert torch.equal(mixed(x[:1], heard[:1], 1.0), x[:1])


def test_only_training_mixes_voices() -> None:
    torch.manual_seed(0)
    layout = tiny_layout()
    module = DuplexModule(DuplexTrainConfig(tiny_model(layout).config, voices_share=1.0))
    stream, embedding = layout.stream("user"), module.model.embeddings["user"]
    ids = random_tracks(layout, 4, 20)["user"]
    plain = embedding(ids)
    with other_voices(embedding, stream.pad_id, 1.0):
        assert not torch.allclose(embedding(ids), plain)
    assert torch.equal(embedding(ids), plain)
    batch = random_tracks(layout, 4, 20) | {
        "agent_active": torch.ones(4, 20, dtype=torch.bool),
        "lengths": torch.full((4,), 20),
    }
    batch |= {"agent_stopped": torch.zeros(4, 20, dtype=torch.bool)}
    module.eval()
    assert module.losses(batch)["agent_text"] == module.losses(batch)["agent_text"]
