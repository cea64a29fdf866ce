"""Bandwidth: the bytes read and the products computed per second that this machine reaches, to compare a model with."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GIB = 1 << 30
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run a block with this many threads inside torch's operations, then return to the number before."""
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def last_level_cache_bytes() -> int | None:
    """Return the size of the processor's largest cache, or None where the system does not tell."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = []
    for file in _CACHES.glob("index*/size"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            text = file.read_text().strip()
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes, default=None)


def _best_run(work: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """Return wall and processor seconds of the shortest of `repeats` runs, after one that does not count."""
    best = (float("inf"), 0.0)
    for attempt in range(repeats + 1):
        finish(device)
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        finish(device)
        if attempt:
            best = min(best, (time.perf_counter() - start, time.process_time() - start_cpu))
    return best


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was told; a processor has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read_bandwidth(threads: int = 1, num_bytes: int = GIB, repeats: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Return the measured read bandwidth in GB/s (10^9 bytes) over a buffer of `num_bytes`.

    Reads the buffer once per run by a sum and by a scalar product of it with itself, and takes the faster. The buffer
    must be larger than the last-level cache, or the cache is measured: `cache_bytes` stands beside the number. A
    virtual machine may report a cache of hundreds of MiB that it shares with others; part of it still serves a buffer
    of 1 GiB, so the number is an upper bound of what the memory itself gives. `cpu_share` is the share of the threads'
    time that the machine granted: well below 1, somebody else was using the processor and the number is too low.
    """
    if num_bytes < 4:
        raise ValueError(f"num_bytes must be at least 4, not {num_bytes}")
    place = torch.device(device)
    buffer = torch.ones(num_bytes // 4, dtype=torch.float32, device=place)
    with torch_threads(threads), torch.inference_mode():
        seconds, cpu_seconds = min(
            _best_run(lambda: buffer.sum(), repeats, place),
            _best_run(lambda: torch.dot(buffer, buffer), repeats, place),
        )
    return {
        "read_gb_per_s": buffer.numel() * 4 / seconds / 1e9,
        "threads": threads,
        "cpu_share": cpu_seconds / seconds / threads,
        "buffer_bytes": buffer.numel() * 4,
        "cache_bytes": last_level_cache_bytes() if place.type == "cpu" else None,
    }


def matmul_flops(
    dtype: torch.dtype = torch.float32, threads: int = 1, size: int = 2048, repeats: int = 3, device: str = "cpu"
) -> dict[str, Any]:
    """Return the FLOP/s of a product of two [size, size] matrices of `dtype`, counted as 2 size^3 operations."""
    place = torch.device(device)
    left: Tensor = torch.randn(size, size, device=place).to(dtype)
    right: Tensor = torch.randn(size, size, device=place).to(dtype)
    with torch_threads(threads), torch.inference_mode():
        seconds, cpu_seconds = _best_run(lambda: left @ right, repeats, place)
    name = str(dtype).removeprefix("torch.")
    return {
        "gflop_per_s": 2 * size**3 / seconds / 1e9,
        "dtype": name,
        "threads": threads,
        "cpu_share": cpu_seconds / seconds / threads,
        "size": size,
    }


def machine_report(threads: tuple[int, ...] = (1, 2), device: str = "cpu") -> dict[str, Any]:
    """Return read bandwidth and float32 and bfloat16 products for each number of threads."""
    return {
        "read": [read_bandwidth(count, device=device) for count in threads],
        "matmul": [
            matmul_flops(dtype, count, device=device) for dtype in (torch.float32, torch.bfloat16) for count in threads
        ],
    }
