"""Compiled products of 8 bits and the functions between them, beside what torch computes."""

import numpy as np
import pytest
import torch
from numba import njit
from numpy.typing import NDArray
from torch.cpu import _is_avx2_supported, _is_vnni_supported
from torch.nn import functional as F

from s2s.kernels import functions
from s2s.kernels.products import BLOCK, ByAvx2, ByVnni, Matrices, block_of, pack, product
from s2s.nn.norm import RMSNorm

pytestmark = pytest.mark.skipif(not _is_avx2_supported(), reason="this processor has no AVX2")


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def multiplied(x: NDArray[np.float32], matrices: Matrices, which: int = 0) -> NDArray[np.float32]:
    out = np.full((len(x), matrices.scales.shape[1]), np.nan, np.float32)
    product(x, matrices, which, out)
    return out


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (100, 30), (7, 193)])
def test_products_are_close(rows: int, outputs: int, inputs: int) -> None:
    matrices, biases, x = normal(3, outputs, inputs), normal(3, outputs, seed=1), normal(rows, inputs, seed=2)
    found = multiplied(x, pack(matrices, biases), 2)
    expected = x @ matrices[2].T + biases[2]
    assert 0 < np.linalg.norm(found[:, :outputs] - expected) < 0.015 * np.linalg.norm(expected)
    assert (found[:, outputs:] == 0).all()


def test_rows_are_the_same_alone_and_beside_any_others() -> None:
    x = normal(9, 96) * np.logspace(-4, 4, 9, dtype=np.float32)[:, None]
    x[4] = 0
    matrices = pack(normal(1, 40, 96))
    together = multiplied(x, matrices)
    for row in range(9):
        assert np.array_equal(multiplied(x[row : row + 1], matrices)[0], together[row])
    assert np.array_equal(multiplied(x[::-1].copy(), matrices)[::-1], together)


def test_weights_of_8_bits_are_kept_as_they_are() -> None:
    integers = np.random.default_rng(0).integers(-127, 128, (1, 6, 32)).astype(np.float32)
    integers[:, :, 0] = 127
    weights = integers * np.abs(normal(1, 6, 1))
    picked = multiplied(np.eye(32, dtype=np.float32), pack(weights))[:, :6].T
    np.testing.assert_allclose(picked, weights[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("by", [ByAvx2(), ByVnni()])
@pytest.mark.parametrize("rows", [1, 4])
def test_sums_are_exact_by_either_instruction(by: ByAvx2 | ByVnni, rows: int) -> None:
    """The largest and the smallest bytes, whose products hardly fit into a sum of 16 bits, and any others."""
    if isinstance(by, ByVnni) and not _is_vnni_supported():
        pytest.skip("this processor has no AVX-512 VNNI")
    block, rng = block_of(rows, by), np.random.default_rng(0)
    matrix = rng.integers(-127, 128, (1, BLOCK, 192)).astype(np.float32)
    matrix[0, :8], matrix[0, 8:16, ::2], matrix[0, 16:, 0] = 127, -127, 127
    x = rng.integers(0, 256, (rows, 192)).astype(np.uint8)
    x[0, :96], x[-1, 96:] = 255, 0
    found = np.empty(rows * BLOCK, np.int32)

    @njit
    def run(weights: NDArray[np.int8], x: NDArray[np.uint8], out: NDArray[np.int32]) -> None:
        block(weights, 0, x, 0, 48, out)

    run(pack(matrix).weights[0], x, found)
    expected = (x.astype(np.int32) - by.offset) @ matrix[0].astype(np.int32).T
    assert np.array_equal(found.reshape(rows, BLOCK), expected)


def test_nan_stays_nan_and_in_its_row() -> None:
    x = normal(5, 64)
    clean = multiplied(x, pack(normal(1, 64, 64)))
    x[2, 7] = np.nan
    found = multiplied(x, pack(normal(1, 64, 64)))
    assert np.isnan(found[2]).all()
    assert np.array_equal(np.delete(found, 2, axis=0), np.delete(clean, 2, axis=0))


@pytest.mark.parametrize("loudness", [1e-3, 1.0, 30.0])
def test_functions_are_those_of_the_library(loudness: float) -> None:
    x, weight, bias = loudness * normal(4, 200), normal(200, seed=1), normal(200, seed=2)
    exact = torch.from_numpy(x).double()
    found = x.copy()
    functions.gelu(found)
    np.testing.assert_allclose(found, F.gelu(exact), rtol=1e-5, atol=2e-7 * loudness)
    half = np.empty((4, 100), np.float32)
    functions.gate(x, half)
    np.testing.assert_allclose(half, F.silu(exact[:, :100]) * exact[:, 100:], rtol=1e-5, atol=1e-20)
    normed = np.empty_like(x)
    functions.rms_norm(x, weight, 1e-6, normed)
    module = RMSNorm(200, 1e-6).double()
    module.weight.data.copy_(torch.from_numpy(weight))
    np.testing.assert_allclose(normed, module(exact).detach(), rtol=1e-4, atol=1e-5)
    functions.layer_norm(x, weight, bias, 1e-5, normed)
    expected = F.layer_norm(exact, (200,), torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), 1e-5)
    np.testing.assert_allclose(normed, expected, rtol=1e-4, atol=1e-5)
    row = x[0].copy()
    functions.softmax(row, 150, 0.5)
    np.testing.assert_allclose(row[:150], (0.5 * exact[0, :150]).softmax(0), rtol=1e-4, atol=1e-20)
    assert np.array_equal(row[150:], x[0, 150:])
