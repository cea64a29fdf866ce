"""Products of 8 bits with fused quantisation, compiled by numba: what every packed layer is made of.

A weight matrix lies in blocks of 64 outputs, within these in quads of inputs, so that one instruction (AVX-512 VNNI)
adds the products of 4 inputs to 16 outputs and no sum ever crosses lanes. Processors with AVX2 alone come to the same
sums in eight. Sums of 8-bit products are whole numbers and exact, and each row of inputs is rounded by its own
smallest and largest value: a row gives the same bits alone and beside any others.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch.cpu import _is_vnni_supported

llvmlite.binding.initialize_native_asmparser()

BLOCK, QUAD, LANES = 64, 4, 16
LINE = 64  # bytes that come from memory at a time
PREFETCHED = 4096
"""How many bytes ahead weights are asked for: by itself a processor looks no further than to the end of a page."""
_WORD = ir.IntType(32)
_VECTOR = ir.VectorType(_WORD, LANES)
_HALF = ir.VectorType(_WORD, LANES // 2)  # what a register holds without AVX-512
_BYTE = ir.IntType(8).as_pointer()

_settings: Any = config  # whose names are only known when it runs
_SUMS = {"reassoc", "contract", "nsz", "arcp", "afn"}


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled when it is first called, and kept on disk for the next process where there is a place for that.

    Sums may be taken in any order, which is fixed by their length; NaN stays NaN.
    """
    configured = _settings.CACHE_DIR
    try:
        _settings.CACHE_DIR = str(_kept_in(configured))
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)(function)
    except RuntimeError:  # nobody's home, or nothing can be written anywhere
        return njit(nogil=True, error_model="numpy", fastmath=_SUMS)(function)
    finally:
        _settings.CACHE_DIR = configured


@functools.cache
def _kept_in(configured: str) -> Path:
    """A folder for what these sources compile to: numba does not notice when a kernel inside another one changes."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    base = Path(configured) if configured else Path.home() / ".cache" / "s2s"
    return base / f"kernels-{hashlib.sha256(sources).hexdigest()[:12]}"


class Matrices(NamedTuple):
    """N matrices [O, I] for `product`, O and I filled up with zeros to multiples of 64.

    weights [N, O * I] int8; sums of each output's weights, scales and biases [N, O] float32.
    """

    weights: Any
    sums: Any
    scales: Any
    biases: Any


ONLY = np.int64(0)
"""The number of a single matrix. A plain 0 is a type of its own, for which all would be compiled once more."""


def pack(matrices: NDArray[np.float32], biases: NDArray[np.float32] | None = None) -> Matrices:
    """Matrices [N, O, I] and biases [N, O], rounded so that the largest weight of an output becomes 127."""
    count, rows, columns = matrices.shape
    out, more = -rows % BLOCK, -columns % BLOCK
    scales = np.maximum(np.abs(matrices).max(axis=2), 1e-12) / np.float32(127)
    rounded = np.clip(np.rint(matrices / scales[..., None]), -127, 127).astype(np.int8)
    filled = np.pad(rounded, ((0, 0), (0, out), (0, more)))
    blocks = filled.reshape(count, (rows + out) // BLOCK, BLOCK // LANES, LANES, (columns + more) // QUAD, QUAD)
    weights = np.ascontiguousarray(blocks.transpose(0, 1, 4, 2, 3, 5)).reshape(count, -1)
    fill = ((0, 0), (0, out))
    sums = np.pad(rounded.sum(axis=2, dtype=np.int32).astype(np.float32), fill)
    biases = np.zeros_like(scales) if biases is None else biases
    return Matrices(weights, sums, np.pad(scales, fill), np.pad(biases, fill))


class ByVnni:
    """Inputs as they are, 0 to 255: one instruction adds 4 products to each of 16 outputs."""

    offset = 0

    def prepare(self, builder: Any, quad: Any) -> Any:
        """What `add` takes of a quad of inputs, which every lane of a vector holds."""
        return quad

    def add(self, builder: Any, total: Any, inputs: Any, weights: Any) -> Any:
        """For each of 16 outputs the total plus its 4 products of (input - offset) and weight."""
        # Written as an instruction: LLVM's name for it takes other arguments in every few releases.
        return _instruction(builder, "vpdpbusd $2, $1, $0", "=v,v,v,0", _VECTOR, inputs, weights, total)


class ByAvx2:
    """Inputs less 128: products are added in pairs of 16 bits, which hold two of (-128 to 127) times (-127 to 127).

    One of the two has to be without a sign, so it goes from the input to the weight.
    """

    offset = 128

    def prepare(self, builder: Any, quad: Any) -> Any:
        less = builder.xor(quad, ir.Constant(_VECTOR, [0x80808080] * LANES))
        less = _lanes(builder, less, 0, LANES // 2)
        return less, _instruction(builder, "vpabsb $1, $0", "=x,x", _HALF, less)

    def add(self, builder: Any, total: Any, inputs: Any, weights: Any) -> Any:
        less, size = inputs
        ones, halves = ir.Constant(_HALF, [0x00010001] * (LANES // 2)), []
        for start in (0, LANES // 2):
            summed, weight = (_lanes(builder, each, start, LANES // 2) for each in (total, weights))
            turned = _instruction(builder, "vpsignb $2, $1, $0", "=x,x,x", _HALF, weight, less)
            pairs = _instruction(builder, "vpmaddubsw $2, $1, $0", "=x,x,x", _HALF, size, turned)
            quads = _instruction(builder, "vpmaddwd $2, $1, $0", "=x,x,x", _HALF, pairs, ones)
            halves.append(builder.add(summed, quads))
        return builder.shuffle_vector(*halves, ir.Constant(_VECTOR, [*range(LANES)]))


def _instruction(builder: Any, text: str, constraint: str, kind: Any, *arguments: Any) -> Any:
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.asm(function, text, constraint, list(arguments), False)


def block_of(rows: int, by: ByVnni | ByAvx2) -> Any:
    """Sums of one block of weights for so many rows of inputs, each weight read once for all of them."""

    def block(context: Any, weights: Any, at: Any, x: Any, row: Any, quads: Any, sums: Any) -> Any:
        """sums [rows, 64] int32 = weights [at:] times x [row : row + rows, 4 * quads] uint8, less the offset."""
        signature = types.void(weights, types.intp, x, types.intp, types.intp, sums)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = [context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 5)]
            w, x, out = (builder.bitcast(array.data, _BYTE) for array in arrays)
            w, quads = builder.gep(w, [arguments[1]]), arguments[4]
            index = quads.type
            width = builder.mul(quads, index(QUAD))
            x = builder.gep(x, [builder.mul(arguments[3], width)])
            totals = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(BLOCK // LANES)] for _ in range(rows)]
            for total in itertools.chain(*totals):
                builder.store(ir.Constant(_VECTOR, None), total)
            with cgutils.for_range(builder, quads) as loop:
                first, quad = builder.mul(loop.index, index(BLOCK * QUAD)), builder.mul(loop.index, index(QUAD))
                lanes = [_vector(builder, w, builder.add(first, index(i * 4 * LANES))) for i in range(BLOCK // LANES)]
                for line in range(0, BLOCK * QUAD, LINE):
                    _prefetch(builder, builder.gep(w, [builder.add(first, index(PREFETCHED + line))]))
                lanes = [builder.load(pointer, align=1) for pointer in lanes]
                for i, sums_of_row in enumerate(totals):
                    inputs = builder.gep(x, [builder.add(builder.mul(width, index(i)), quad)])
                    everywhere = _broadcast(builder, builder.load(builder.bitcast(inputs, _WORD.as_pointer()), align=1))
                    prepared = by.prepare(builder, everywhere)
                    for total, lane in zip(sums_of_row, lanes, strict=True):
                        builder.store(by.add(builder, builder.load(total), prepared, lane), total)
            for i, total in enumerate(itertools.chain(*totals)):
                builder.store(builder.load(total), _vector(builder, out, index(i * 4 * LANES)), align=4)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(block)


_by = ByVnni() if _is_vnni_supported() else ByAvx2()
_block, _block_4, _OFFSET = block_of(1, _by), block_of(4, _by), np.int32(_by.offset)


def _from_bits(context: Any, bits: Any) -> Any:
    """The float32 of these 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


from_bits: Any = intrinsic(_from_bits)


def _prefetch(builder: Any, pointer: Any) -> None:
    """Ask for what lies there; behind the last weight there may be nothing, which is no error."""
    function = ir.FunctionType(ir.VoidType(), [pointer.type])
    builder.asm(function, "prefetcht0 ($0)", "r", [pointer], True)


def _vector(builder: Any, base: Any, offset: Any) -> Any:
    return builder.bitcast(builder.gep(base, [offset]), _VECTOR.as_pointer())


def _broadcast(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _WORD(0))
    return _lanes(builder, first, 0, LANES, step=0)


def _lanes(builder: Any, vector: Any, start: int, count: int, step: int = 1) -> Any:
    which = ir.Constant(ir.VectorType(_WORD, count), [start + step * i for i in range(count)])
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), which)


@compiled
def _range(x: Any) -> Any:
    """The smallest and the largest of x [I] and 0."""
    # As whole numbers: positive floats are in the order of their bits, negative ones, without a sign, in the opposite
    # one above all positive ones. Comparisons of floats would be made one after the other, because of NaN.
    signed, unsigned = x.view(np.int32), x.view(np.uint32)
    most, least = np.int32(0), np.uint32(0)
    for i in range(len(signed)):
        most, least = max(most, signed[i]), max(least, unsigned[i])
    return min(from_bits(np.int32(least)), np.float32(0)), from_bits(most)


@compiled
def _quantise(x: Any, rounded: Any) -> Any:
    """x [I] ~ (rounded [I] - zero) * step."""
    least, most = _range(x)
    step = max((most - least) / np.float32(255), np.float32(1e-12))
    zero = np.float32(np.rint(-least / step))
    inverse, middle = np.float32(1) / step, zero + np.float32(0.5)
    for i in range(len(x)):
        rounded[i] = np.uint8(np.int32(min(max(x[i] * inverse + middle, np.float32(0)), np.float32(255))))
    return step, zero


@compiled
def product(x: Any, matrices: Matrices, which: int, out: Any) -> None:
    """out [B, O] = x [B, I] times matrix number `which`, plus its biases; x may be narrower than the matrix."""
    rows = len(x)
    weights, sums = matrices.weights[which], matrices.sums[which]
    scales, biases = matrices.scales[which], matrices.biases[which]
    quads = len(weights) // len(scales) // QUAD
    rounded = np.zeros((rows, QUAD * quads), np.uint8)
    steps, zeros = np.empty(rows, np.float32), np.empty(rows, np.float32)
    for row in range(rows):
        steps[row], zeros[row] = _quantise(x[row], rounded[row])
    totals = np.empty(4 * BLOCK, np.int32)
    for block in range(len(scales) // BLOCK):
        row, at = 0, block * quads * QUAD * BLOCK
        while row < rows:
            together = 4 if row + 4 <= rows else 1
            if together == 4:
                _block_4(weights, at, rounded, row, quads, totals)
            else:
                _block(weights, at, rounded, row, quads, totals)
            for i in range(together):
                step, zero, first = steps[row], zeros[row], block * BLOCK
                for j in range(BLOCK):
                    o = first + j
                    total = np.float32(totals[i * BLOCK + j] + _OFFSET * np.int32(sums[o]))
                    out[row, o] = (total - zero * sums[o]) * (scales[o] * step) + biases[o]
                row += 1
