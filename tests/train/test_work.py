"""The operations that MFU counts are those of the matrix products that run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from s2s.train.work import codec_flops, count_skipped, duplex_flops
from tests.tiny import random_tracks, tiny_codec, tiny_layout, tiny_model


def counted(work: object) -> float:
    with FlopCounterMode(display=False) as counter:
        work()  # type: ignore[operator]
    return 3.0 * counter.get_total_flops()  # forward, and twice as much backward


@pytest.mark.parametrize("per_step_weights", [False, True])
def test_duplex_flops_are_those_of_the_products(per_step_weights: bool) -> None:
    model, layout = tiny_model(per_step_weights=per_step_weights), tiny_layout()
    tracks = random_tracks(layout, 2, 12)
    grid = torch.cat([tracks[s.name] for s in layout.streams], dim=1)
    parts = [model.backbone, model.text_heads, model.depth]

    def forward() -> None:
        hidden = torch.randn(2, 12, model.config.backbone.width)
        model.text_logits(model.backbone(hidden))
        model.depth(hidden.flatten(0, 1)[:10], grid[:, layout.rows("agent")].transpose(1, 2).flatten(0, 1)[:10])

    assert all(parts)
    # Attention scores are counted by torch but not by the formula: a tenth of these tiny layers.
    assert duplex_flops(model, 24, 10) == pytest.approx(counted(forward), rel=0.2)


def test_a_talker_alone_costs_nothing_of_the_backbone() -> None:
    model = tiny_model(talker=True)
    talker = counted(lambda: model.talk(torch.randint(9, (2, 12)), torch.randint(9, (2, 4, 12))))
    both = duplex_flops(model, 24, 10, thinks=False)
    depth = duplex_flops(tiny_model(), 24, 10) - duplex_flops(tiny_model(), 24, 0)
    # The embedding of codes has a product as well, and depth reads less than a backbone's width.
    assert both - depth == pytest.approx(talker, rel=0.3)
    assert duplex_flops(model, 24, 10) - both == duplex_flops(tiny_model(), 24, 0)


def test_codec_flops_are_those_of_the_products() -> None:
    codec = tiny_codec()
    samples = 10 * codec.spec.frame_size
    vectors = torch.randn(1, 10, codec.config.code_dim)

    def forward() -> None:
        codec.encoder(torch.randn(1, samples))
        codec.decoder(vectors)

    mel = 3 * 2 * codec.encoder.filters.numel() * samples / codec.config.hop_size  # a product, but none with a weight
    assert codec_flops(codec, samples) == pytest.approx(counted(forward) - mel, rel=0.05)


def test_the_budget_of_skipped_steps() -> None:
    assert count_skipped(1, 2) == 2
    with pytest.raises(RuntimeError, match="allowed are 2"):
        count_skipped(2, 2)
