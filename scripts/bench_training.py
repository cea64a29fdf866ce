"""What share of a large matrix product the backbone reaches in training: forward and backward of the shipped shape.

    python scripts/bench_training.py [--threads 2] [--rounds 5] [--json]

Batches are those of `experiment=support_desk`: many single turns, or few whole calls, 4,400 steps in all. Operations
are counted as for MFU: 6 per parameter and step, attention scores and norms not. Products and backbone take turns in
every round, in float32 and under bf16 autocast; medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s2s.checkpoint import load
from s2s.train.callbacks import product_flops_per_s

BATCHES = {"turns": (24, 183), "calls": (5, 880)}
"""Rows and steps."""
CPU = torch.device("cpu")


def backbone_flops_per_s(backbone: torch.nn.Module, shape: tuple[int, int], half: bool) -> float:
    """Operations per second of one forward and backward pass over [rows, steps, width]."""
    weights = sum(p.numel() for p in backbone.parameters() if p.dim() >= 2)
    x = torch.randn(*shape, backbone.config.width, requires_grad=True)  # type: ignore[union-attr]
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y: Tensor = backbone(x)
    y.float().square().mean().backward()
    return 6.0 * weights * shape[0] * shape[1] / (time.perf_counter() - begin)


def measure(rounds: int) -> dict[str, float]:
    model = load("support_desk").model
    assert model is not None
    backbone = model.backbone.train()
    contestants: dict[str, Callable[[], float]] = {
        "product, float32": lambda: product_flops_per_s(CPU, torch.float32),
        "product, bf16": lambda: product_flops_per_s(CPU, torch.bfloat16),
    }
    for name, shape in BATCHES.items():
        for kind, half in (("float32", False), ("bf16", True)):
            contestants[f"backbone, {name}, {kind}"] = lambda shape=shape, half=half: backbone_flops_per_s(  # type: ignore[misc]
                backbone, shape, half
            )
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            speed = run()
            if number:  # the first round warms up
                found[name].append(speed)
    return {name: statistics.median(speeds) for name, speeds in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = measure(args.rounds)
    result: dict[str, Any] = {"threads": args.threads, "gflops_per_s": {n: v / 1e9 for n, v in found.items()}}
    result["share_of_bf16_product"] = {
        name: speed / found["product, bf16"] for name, speed in found.items() if name.startswith("backbone")
    }
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{args.threads} thread(s)")
    for name, speed in found.items():
        share = result["share_of_bf16_product"].get(name)
        print(
            f"{name:26} {speed / 1e9:6.0f} GFLOP/s" + ("" if share is None else f"   {share:.0%} of the bf16 product")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
