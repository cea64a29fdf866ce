"""Warm-up: what an engine finds out about its step on this machine before the first caller.

Products of matrices round differently for one row than for many: on a CPU with AVX-512, the float32 result of a row is
one and the same for 4 rows and more, in any place, and another for 1, 2 and 3. A caller must not hear when another one
joins, so only numbers of rows that agree to the last bit are run, and rows that nobody has fill them up. That makes a
lone caller's step dearer, as the smallest number is 4. Compiled steps of 8 bits agree for all numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from s2s.models.step import Step
from s2s.nn.sampling import Controls
from s2s.streaming import State, leaves

logger = logging.getLogger(__name__)

_PROBE_STEPS = 3
_MOST_PADDED = 16  # rows up to which a small engine is filled up to find numbers that agree
_TIMED_STEPS = 10
_GROUPS_WORTH, _GROUPS_WORTH_S = 1.15, 2e-3  # what the steps of several groups may take of the one of a single group
_WORTH, _WORTH_S = 0.9, 0.5e-3  # another thread has to save a tenth, and more than it costs to keep it awake


def bucket_sizes(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4, 6, 8, 12, 16, 24 and so on below `max_rows`, and `max_rows` itself: few, and at most half too many."""
    powers = [1 << i for i in range((max_rows - 1).bit_length())]
    between = [3 * power for power in powers[1:]]
    return (*sorted(size for size in (*powers, *between) if size < max_rows), max_rows)


def agreeing_sizes(step: Step, max_rows: int) -> tuple[int, ...]:
    """Numbers of rows, up to one that holds `max_rows`, with which a row gives the same bits anywhere beside anyone.

    Empty where there are none: then only rows that are run one by one agree.
    """
    for most in (max_rows, *(size for size in bucket_sizes(_MOST_PADDED) if size > max_rows)):
        expected = _same_in_all_places(step, most, most)
        if expected is None:
            continue
        sizes = [most]
        for size in reversed(bucket_sizes(most)[:-1]):
            if _same_in_all_places(step, size, most) != expected:
                break
            sizes.insert(0, size)
        return tuple(sizes)
    return ()


def measure_threads(step: Step, num_rows: int, most: int) -> int:
    """The number of threads, up to `most`, with which a step of this many rows is fastest; leaves torch set to it."""
    times: dict[int, float] = {}
    for count in bucket_sizes(most):
        torch.set_num_threads(count)
        times[count] = _median_step_s(step, num_rows)
    best = 1
    for count in times:
        if times[count] < min(_WORTH * times[best], times[best] - _WORTH_S):
            best = count
    torch.set_num_threads(best)
    timed = ", ".join(f"{count}: {seconds * 1000:.1f} ms" for count, seconds in times.items())
    logger.info("%d threads for a step of %d rows (%s)", best, num_rows, timed)
    return best


def measure_groups(step: Step, num_rows: int, buckets: Sequence[int], most: int, most_s: float) -> int:
    """Into how many groups, 1, 2, 4 and so on up to `most`, rows are parted that are stepped one group after the other.

    As many as possible: the more there are, the sooner after a caller's packets the next tick is. But steps of fewer
    rows must not take much longer together than one of all, and no longer than `most_s`.

    Args: buckets: the numbers of rows that are run; none: every row is run by itself.
    """
    best, alone_s = 1, 0.0
    for count in (1 << i for i in range(most.bit_length())):
        rows = -(-num_rows // count)
        size = next((size for size in buckets if size >= rows), 1)
        total_s = count * _median_step_s(step, size) * (1 if buckets else rows)
        alone_s = alone_s or total_s
        if count > 1 and total_s > min(most_s, _GROUPS_WORTH * alone_s + _GROUPS_WORTH_S):
            break
        best = count
    logger.info("%d groups for %d rows (one: %.1f ms)", best, num_rows, 1000 * alone_s)
    return best


def run_once(step: Step, num_rows: int) -> None:
    """Run a step with greedy and with sampling rows, so that whatever it makes on first use is made."""
    for temperature in (0.0, 1.0):
        state = step.init_state(num_rows)
        step(new_input(step, state, num_rows), state, Controls.uniform(num_rows, temperature, device=_device(state)))


def new_input(step: Step, state: State, num_rows: int) -> Tensor:
    """Silence for a step [rows, 1, step_size], of the dtype and on the device of its state."""
    dtype = next((leaf.dtype for leaf in leaves(state) if leaf.is_floating_point()), torch.float32)
    return torch.zeros(num_rows, 1, step.step_size, dtype=dtype, device=_device(state))


def _same_in_all_places(step: Step, size: int, num_callers: int) -> list[bytes] | None:
    """The bits of every caller's output and state with `size` rows, None where they depend on the place."""
    found: list[bytes | None] = [None] * num_callers
    for callers in _arrangements(size, num_callers):
        for caller, bits in zip(callers, _bits(step, callers), strict=True):
            if found[caller] not in (None, bits):
                return None
            found[caller] = bits
    return [bits for bits in found if bits is not None]


def _arrangements(size: int, num_callers: int) -> Iterator[list[int]]:
    """Every caller in up to eight places and with different neighbours."""
    for offset in range(0, num_callers, max(1, size // 8)):
        yield [(offset + i) % num_callers for i in range(size)]


@torch.no_grad()
def _bits(step: Step, callers: Sequence[int]) -> list[bytes]:
    """What a few steps give to each of these callers, who speak at different levels; every second one samples."""
    state = step.init_state(len(callers))
    wav = new_input(step, state, len(callers))
    temperature = torch.tensor([0.8 * (caller % 2) for caller in callers], device=wav.device)
    seeds = torch.tensor(callers, device=wav.device)
    controls = Controls(temperature, torch.full_like(seeds, 20), seeds)
    bits = [b""] * len(callers)
    for number in range(_PROBE_STEPS):
        for row, caller in enumerate(callers):
            noise = torch.randn(step.step_size, generator=torch.Generator().manual_seed(1000 * caller + number))
            wav[row, 0] = noise * 10 ** -(caller % 4)
        out = step(wav, state, controls)
        bits = [old + row.cpu().numpy().tobytes() for old, row in zip(bits, out.wav, strict=True)]
    kept = [leaf.cpu().numpy() for leaf in leaves(state)]
    return [old + b"".join(leaf[row].tobytes() for leaf in kept) for row, old in enumerate(bits)]


def _median_step_s(step: Step, num_rows: int) -> float:
    state = step.init_state(num_rows)
    wav = new_input(step, state, num_rows)
    controls = Controls.uniform(num_rows, 1.0, device=_device(state))
    times = []
    for number in range(3 + _TIMED_STEPS):
        start = time.perf_counter()
        step(wav, state, controls)
        if number >= 3:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def on_cpu(step: Step) -> bool:
    return _device(step.init_state(1)) == "cpu"


def _device(state: State) -> str:
    return str(leaves(state)[0].device)
