"""Soak: an engine on a virtual clock for a long time, with callers who come, wait, go and hang up without a word.

    python scripts/soak.py                                    # a million ticks that echo
    python scripts/soak.py --model tiny --ticks 90000         # an hour of a tiny random model, one call of all of it

Checked at every tick: every caller hears what is due at its place and nothing else (an echo to the sample, every sample
of which tells its caller), no session outlives its end, none waits with a step to hear. At the end: memory is where it
was once all was warm, and for the model, that the hour-long call is the same to the last bit as one that is alone.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from s2s.checkpoint import random_bundle
from s2s.codec.base import CodecSpec
from s2s.codec.spectral import SpectralCodecConfig
from s2s.engine.engine import Engine, EngineConfig, EngineFull
from s2s.engine.session import Audio, Ended, Session, SessionConfig
from s2s.models.depth import DepthConfig
from s2s.models.duplex import DuplexConfig
from s2s.models.step import EchoStep, Step
from s2s.models.traced import TracedStep
from s2s.nn.transformer import TransformerConfig
from s2s.streams import dialogue_layout
from s2s.text import ByteTokenizer

SPEC = CodecSpec(sample_rate=24000, frame_size=960, num_codebooks=4, codebook_size=64)


@dataclass
class Caller:
    """One call: who it is, for how many steps, what was pushed and heard."""

    number: int
    session: Session
    length: int
    echo: bool
    pushed: int = 0
    heard: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def pcm(self, step: int) -> np.ndarray:
        """A step of the caller, which no other caller says and which it says only once in a long time."""
        size = self.session.step_size
        return ((self.number * 7919 + step * size + np.arange(size)) % 65521 - 32760).astype(np.int16)

    def push(self) -> None:
        pcm = self.pcm(self.pushed)
        for packet in (pcm[:480], pcm[480:]):
            self.session.push(packet)
        self.pushed += 1

    def pull(self) -> Ended | None:
        """Check what came; returns the last event if it was among them."""
        for event in self.session.pull():
            if isinstance(event, Ended):
                return event
            self.digest.update(event.pcm.tobytes() if isinstance(event, Audio) else event.text.encode())
            if isinstance(event, Audio):
                place = self.heard * self.session.step_size
                assert event.position == place, f"drift: position {event.position}, expected {place}"
                if self.echo:
                    assert np.array_equal(event.pcm, self.pcm(self.heard)), f"not what step {self.heard} said"
                self.heard += 1
        return None


class House:
    """The engine and everybody who calls."""

    def __init__(self, step: Step, seed: int, max_sessions: int = 8):
        self.engine = Engine(step, EngineConfig(max_sessions, clock="virtual"), ByteTokenizer())
        self.echo = isinstance(step, EchoStep)
        self.rng = random.Random(seed)
        self.callers: list[Caller] = []
        self.ended = self.waits = 0

    def open(self, number: int, length: int) -> Caller:
        config = SessionConfig(temperature=0.8, top_k=20, seed=number)
        self.callers.append(Caller(number, self.engine.open(config), length, self.echo))
        return self.callers[-1]

    def tick(self) -> None:
        if self.rng.random() < 0.05:
            self.try_to_call()
        before = [(caller, caller.pushed) for caller in self.callers]
        for caller in self.callers:
            if caller.pushed < caller.length and self.rng.random() < 0.98:
                caller.push()
            else:
                self.waits += 1
        self.engine.tick()
        for caller, _ in before:
            ended = caller.pull()
            assert ended is None, f"{caller.session.id} ended by itself: {ended}"
            assert caller.heard == caller.pushed, f"stuck: pushed {caller.pushed} steps, heard {caller.heard}"
        leaving = [c for c in self.callers if c.heard == c.length or (c.length < 1000 and self.rng.random() < 0.0005)]
        for caller in leaving:
            self.callers.remove(caller)
            self.hang_up(caller)

    def try_to_call(self) -> None:
        full = len(self.callers) == self.engine.config.max_sessions
        try:
            self.open(self.engine.stats.opened, self.rng.randint(1, 300))
        except EngineFull:
            assert full, "refused with rows free"
        else:
            assert not full, "more callers than rows"

    def hang_up(self, caller: Caller) -> None:
        caller.session.close()
        self.engine.tick()
        ended = caller.pull()
        assert ended == Ended("closed"), f"stuck: closed and not ended but {ended}"
        self.ended += 1
        for other in self.callers:  # they had nothing new to hear
            assert other.pull() is None


def tiny_step() -> Step:
    """A duplex model of a few thousand random weights at the real clock, traced like one that is served."""
    model = DuplexConfig(
        dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, ByteTokenizer.vocab_size),
        TransformerConfig(width=32, num_layers=2, num_heads=4, num_kv_heads=2, hidden=64, window=250),
        DepthConfig(width=16, num_layers=1, num_heads=2, hidden=32, code_width=8),
        code_width=8,
    )
    codec = SpectralCodecConfig(
        SPEC, num_mels=20, hop_width=16, hop_depth=1, frame_width=16, frame_depth=1, decoder_frame_depth=1,
        decoder_hop_width=16, decoder_hop_depth=1, expansion=2, kernel_size=3, code_dim=8,
    )  # fmt: skip
    step = random_bundle(0, model, codec).step("traced")
    assert isinstance(step, TracedStep)
    return step


def resident_mb() -> float:
    """Memory of this process that is in use; Linux."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def soak(house: House, num_ticks: int, report_every: int) -> dict[str, float]:
    """Tick and print; returns the figures. Memory counts from the first tenth on."""
    start, warm_mb = time.monotonic(), 0.0
    while (ticks := house.engine.stats.ticks) < num_ticks:
        for _ in range(min(report_every, num_ticks - ticks)):
            house.tick()
        stats, now_mb = house.engine.stats, resident_mb()
        warm_mb = warm_mb or now_mb
        print(
            f"{stats.ticks} ticks, {stats.opened} calls, {stats.sessions} open, {stats.refusals} refused, "
            f"{house.waits} waits, {now_mb:.1f} MB, {(time.monotonic() - start) / 60:.1f} min",
            file=sys.stderr,
        )
        assert stats.sessions == len(house.callers) and stats.failures == 0
    stats = house.engine.stats
    return {
        "ticks": stats.ticks,
        "hours_of_audio": stats.ticks * house.engine.step_size / house.engine.sample_rate / 3600,
        "calls": stats.opened,
        "ended": house.ended,
        "refused": stats.refusals,
        "failures": stats.failures,
        "grown_mb": round(resident_mb() - warm_mb, 2),
        "wall_min": round((time.monotonic() - start) / 60, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("echo", "tiny"), default="echo")
    parser.add_argument("--ticks", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-growth-mb", type=float, default=8.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    house = House(EchoStep() if arguments.model == "echo" else tiny_step(), arguments.seed)
    # The one who stays: its call is as long as the soak, whatever row it is moved to.
    guest = house.open(0, 2 * arguments.ticks)
    figures: dict[str, float | bool] = dict(soak(house, arguments.ticks, max(1, arguments.ticks // 20)))
    if arguments.model == "tiny":
        alone = House(tiny_step(), arguments.seed)
        again = alone.open(0, guest.heard + 1)
        for _ in range(guest.heard):
            again.push()
            alone.engine.tick()
            again.pull()
        figures["steps_of_the_longest_call"] = guest.heard
        figures["same_alone"] = again.digest.digest() == guest.digest.digest()
    print(json.dumps({"model": arguments.model, **figures}))
    if figures["grown_mb"] > arguments.max_growth_mb or figures.get("same_alone") is False:
        sys.exit("memory grew, or a caller heard something else than alone")


if __name__ == "__main__":
    main()
