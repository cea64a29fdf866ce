"""Norms and activations on rows of float32, compiled into the kernels that use them."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2s.kernels.products import compiled, from_bits

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
# Less would be nothing to any sum, but what is multiplied with it could become denormal, which is very slow.
_LEAST, _MOST = np.float32(-60), np.float32(88)
# Cephes' polynomial of e^r for |r| <= ln(2) / 2.
_E0, _E1, _E2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_E3, _E4, _E5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
# Quarters of a circle, what is left of one after the other, and Cephes' sine and cosine of up to an eighth.
_QUARTERS, _Q1, _Q2, _Q3 = (
    np.float32(0.6366197724),
    np.float32(1.5703125),
    np.float32(4.8375129e-4),
    np.float32(7.54979e-8),
)
_S1, _S2, _S3 = np.float32(-1.6666654611e-1), np.float32(8.3321608736e-3), np.float32(-1.9515295891e-4)
_C1, _C2, _C3 = np.float32(4.166664568e-2), np.float32(-1.388731625e-3), np.float32(2.443315711e-5)
# Abramowitz and Stegun 1964, 7.1.26: erf to 1.5e-7.
_P, _ROOT_HALF = np.float32(0.3275911), np.float32(0.70710678)
_A1, _A2, _A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
_A4, _A5 = np.float32(-1.453152027), np.float32(1.061405429)


@compiled
def exp(x: Any) -> Any:
    """e^x of one number, to a few units of the last place and at least e^-60: vectorised, unlike the library's."""
    x = min(max(x, _LEAST), _MOST)
    power = np.floor(x * _LOG2E + _HALF)
    r = x - power * _LN2_HIGH - power * _LN2_LOW
    y = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    return (y * r * r + r + _ONE) * from_bits((np.int32(power) + np.int32(127)) << np.int32(23))


@compiled
def sine_cosine(x: Any) -> Any:
    """Both of one angle of less than a thousand circles, to a few units of 1e-7; vectorised, unlike the library's."""
    quarters = np.floor(x * _QUARTERS + _HALF)
    r = x - quarters * _Q1 - quarters * _Q2 - quarters * _Q3
    square = r * r
    sine = r + r * square * (_S1 + square * (_S2 + square * _S3))
    cosine = _ONE - _HALF * square + square * square * (_C1 + square * (_C2 + square * _C3))
    turn = np.int32(quarters)
    odd = (turn & np.int32(1)) != 0
    a, b = (cosine if odd else sine), (sine if odd else cosine)
    return (-a if turn & np.int32(2) else a), (-b if (turn + np.int32(1)) & np.int32(2) else b)


@compiled
def gate(both: Any, out: Any) -> None:
    """out [B, H] = SiLU of the first H of both [B, 2 H and more] times the next H."""
    rows, hidden = out.shape
    for row in range(rows):
        for i in range(hidden):
            x = both[row, i]
            out[row, i] = x / (_ONE + exp(-x)) * both[row, hidden + i]


@compiled
def gelu(x: Any) -> None:
    """x [B, H] in place, by the error function."""
    for row in range(len(x)):
        for i in range(x.shape[1]):
            value = x[row, i]
            size = max(value, -value) * _ROOT_HALF
            t = _ONE / (_ONE + _P * size)
            tail = _HALF * ((((_A5 * t + _A4) * t + _A3) * t + _A2) * t + _A1) * t * exp(-size * size)
            below = min(value, _ZERO)
            x[row, i] = (value - below) * (_ONE - tail) + below * tail


@compiled
def rms_norm(x: Any, weight: Any, epsilon: float, out: Any) -> None:
    """out [B, D] = x [B, D] at a root mean square of one, times weight [D]."""
    width = x.shape[1]
    for row in range(len(x)):
        total = np.float32(0)
        for i in range(width):
            total += x[row, i] * x[row, i]
        inverse = _ONE / np.sqrt(max(total / np.float32(width), np.float32(epsilon)))
        for i in range(width):
            out[row, i] = x[row, i] * inverse * weight[i]


@compiled
def layer_norm(x: Any, weight: Any, bias: Any, epsilon: float, out: Any) -> None:
    """out [B, D] = x [B, D] with mean zero and variance one, times weight [D] plus bias [D]."""
    width = x.shape[1]
    for row in range(len(x)):
        total = np.float32(0)
        for i in range(width):
            total += x[row, i]
        mean, squares = total / np.float32(width), np.float32(0)
        for i in range(width):
            squares += (x[row, i] - mean) * (x[row, i] - mean)
        inverse = _ONE / np.sqrt(squares / np.float32(width) + np.float32(epsilon))
        for i in range(width):
            out[row, i] = (x[row, i] - mean) * inverse * weight[i] + bias[i]


@compiled
def softmax(x: Any, count: int, scale: float) -> None:
    """x[:count] in place, of scale times itself."""
    most = x[0]
    for i in range(1, count):
        most = max(most, x[i])
    total = np.float32(0)
    for i in range(count):
        x[i] = exp((x[i] - most) * np.float32(scale))
        total += x[i]
    inverse = _ONE / total
    for i in range(count):
        x[i] *= inverse
