"""MACs: the multiply-accumulates that a function really runs, counted at torch's operators.

Counting operators instead of modules sees every product, whichever layer or expression it comes from.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def _distances(left: Any, right: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * math.prod(out_shape) * left[-1]


def _fourier(x: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    # A real transform of n samples takes about 2.5 n log2 n operations; the last dimension is the transformed one.
    n = max(x[-1], out_shape[-1])
    return round(2.5 * math.prod(out_shape) / out_shape[-1] * n * math.log2(max(n, 2)))


def _recurrent(x: Any, w_in: Any, w_hidden: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * x[0] * x[1] * (math.prod(w_in) + math.prod(w_hidden))


_MORE_OPERATORS = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._cdist_forward: _distances,
    _aten._euclidean_dist: _distances,
    _aten._fft_r2c: _fourier,
    _aten._fft_c2r: _fourier,
    _aten.mkldnn_rnn_layer: _recurrent,
}


def count_macs(work: Callable[[], object]) -> int:
    """Run `work` once and return its multiply-accumulates: products, convolutions, attention, recurrences, transforms.

    Additions, norms and activations are not counted. A Fourier transform counts half its usual operation count.
    """
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_MORE_OPERATORS) as counter:
        work()
    return counter.get_total_flops() // 2
