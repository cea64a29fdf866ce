import pytest
import torch
from torch import nn
from torch.nn import functional as F

from s2s.evaluation.macs import count_macs


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(8, 16), (1, 10, 8), 10 * 8 * 16),
        (nn.Conv1d(8, 16, 5), (1, 8, 104), 100 * 8 * 16 * 5),
        (nn.Conv1d(8, 8, 7, groups=8), (1, 8, 106), 100 * 8 * 7),
        (nn.Conv1d(4, 6, 4, stride=2), (1, 4, 20), 9 * 4 * 6 * 4),
        (nn.ConvTranspose1d(8, 16, 4, stride=2), (1, 8, 100), 100 * 8 * 16 * 4),
        (nn.Conv2d(2, 3, (3, 5)), (1, 2, 10, 12), 8 * 8 * 2 * 3 * 15),
        (nn.LSTM(8, 6, num_layers=2, batch_first=True), (1, 10, 8), 10 * 4 * 6 * (8 + 6 + 6 + 6)),
        (nn.Sequential(nn.GELU(), nn.LayerNorm(8)), (1, 10, 8), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers_cost_what_the_formula_says(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    x = torch.randn(shape)
    assert count_macs(lambda: layer(x)) == macs
    with torch.inference_mode():
        assert count_macs(lambda: layer(x)) == macs


def test_products_outside_of_layers_are_seen() -> None:
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    assert count_macs(lambda: a @ b) == 5 * 7 * 3
    assert count_macs(lambda: torch.einsum("bshe,bthe->bhst", torch.randn(1, 5, 2, 4), torch.randn(1, 6, 2, 4))) == 240
    assert count_macs(lambda: F.scaled_dot_product_attention(*torch.randn(3, 1, 2, 5, 4))) == 2 * 2 * 5 * 5 * 4
    assert count_macs(lambda: torch.cdist(torch.randn(30, 4), torch.randn(40, 4))) == 30 * 40 * 4
    wide = count_macs(lambda: torch.fft.rfft(torch.randn(3, 64)))
    assert wide == 3 * 2.5 * 64 * 6 / 2 == count_macs(lambda: torch.fft.irfft(torch.randn(3, 33, dtype=torch.cfloat)))
