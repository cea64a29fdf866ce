"""Training of the codec where few rows are left: levels that no row uses."""

from pathlib import Path

import torch

from s2s.codec.rvq import ResidualVectorQuantizer
from s2s.train.run import run_training
from tests.train.toy import codec_run


def test_a_level_that_no_row_uses_waits() -> None:
    quantizer = ResidualVectorQuantizer(3, 8, 4).train()
    x = torch.randn(2, 5, 4)
    before = quantizer.codebooks.clone()
    quantizer(x, torch.tensor([1, 2]))
    assert quantizer.started.tolist() == [True, True, False]
    quantizer(x, torch.tensor([3, 3]))
    assert quantizer.started.all()
    assert not torch.equal(quantizer.codebooks[2], before[2])


def test_every_row_may_lose_levels(toy: Path, tmp_path: Path) -> None:
    run_training(codec_run(toy, tmp_path, "optim.level_dropout=1.0"))
