"""Our own side of scripts/bench_peers.py, which needs moshi for the other one."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import SMALL_SPEC, tiny_codec

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_peers.py"


def test_a_codec_is_measured_both_ways_at_every_speed() -> None:
    bench = runpy.run_path(str(SCRIPT))
    ticks, frame_s = bench["our_codec_ticks"](tiny_codec(replace(SMALL_SPEC, num_codebooks=bench["CODEBOOKS"])))
    assert frame_s == pytest.approx(SMALL_SPEC.frame_size / SMALL_SPEC.sample_rate)
    assert set(ticks) == {
        f"s2s {way}, {speed}" for way in ("encode", "decode") for speed in ("exact", "traced", "int8")
    }
    found = bench["race"](ticks, rounds=2, per_round=2)
    assert all(times["p50"] > 0 for one in found.values() for times in one.values())
