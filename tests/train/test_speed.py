"""What a run says of the machine's speed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from s2s.train.callbacks import DataWait, Speed


@pytest.mark.parametrize(
    ("precision", "whole", "hint"),
    [("bf16-mixed", 2.0, True), ("bf16-mixed", 0.6, False), ("bf16-mixed", 1.1, False), ("32-true", 2.0, False)],
)
def test_slow_bfloat16_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, precision: str, whole: float, hint: bool
) -> None:
    def product(device: torch.device, dtype: torch.dtype) -> float:
        return whole if dtype == torch.float32 else 1.0

    monkeypatch.setattr("s2s.train.callbacks.product_flops_per_s", product)
    trainer: Any = SimpleNamespace(precision=precision, is_global_zero=True)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    Speed(1, 0.04, DataWait(), lines=False).on_train_start(trainer, module)
    assert ("trainer.precision=32-true" in caplog.text) == hint
