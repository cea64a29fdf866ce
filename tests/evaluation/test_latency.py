from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from s2s.codec.base import CodecSpec
from s2s.evaluation.latency import (
    AlgorithmicLatency,
    algorithmic_latency,
    first_change,
    perturb_codec,
    perturb_step,
    perturbed_latency,
)
from s2s.streams import Stream, StreamLayout

SPEC = CodecSpec(sample_rate=24000, frame_size=960, num_codebooks=2, codebook_size=64)


def layout(*delays: int) -> StreamLayout:
    return StreamLayout(
        (
            Stream("user", 64, (0, 0), "hear"),
            Stream("agent_text", 32, (0,), "speak"),
            Stream("agent", 64, delays, "speak"),
        )
    )


def decoder(shift: int) -> Callable[[Tensor], Tensor]:
    """Return a fake decoder that plays frame t from sample t * 960 + shift on, each codebook at a level of its own."""

    def decode(codes: Tensor) -> Tensor:
        levels = codes[:, 0] / 64.0 + codes[:, 1] / 8192.0
        wav = levels.repeat_interleave(SPEC.frame_size, dim=-1)
        return torch.roll(wav, shift, dims=-1)[:, None]

    return decode


def test_latency_adds_frame_delay_and_codec() -> None:
    latency = algorithmic_latency(SPEC, layout(0, 1), codec_overlap=240)
    assert latency == AlgorithmicLatency(frame=960, delay=960, codec=240, sample_rate=24000)
    assert latency.to_json() == {"frame_ms": 40, "delay_ms": 40, "codec_ms": 10, "total_ms": 90}
    assert algorithmic_latency(SPEC, layout(0, 0), 0).samples == 960
    assert algorithmic_latency(SPEC, layout(0, 3), 0).delay == 3 * 960
    with pytest.raises(ValueError, match="-1"):
        algorithmic_latency(SPEC, layout(0, 0), -1)


@pytest.mark.parametrize("shift", [0, 1, 240, 959, -100])
def test_perturbation_finds_where_a_frame_begins(shift: int) -> None:
    codes = torch.randint(0, 64, (1, 2, 9))
    assert perturb_codec(decoder(shift), codes, 4, 960, 64) == shift
    measured = perturbed_latency(decoder(shift), codes, SPEC, layout(0, 1))
    assert measured.samples == 960 + 960 + shift


def test_a_soft_start_counts_from_the_first_bit_or_from_a_level() -> None:
    ramp = torch.linspace(0, 1, 961)[1:]

    def decode(codes: Tensor) -> Tensor:
        return (codes[:, 0, :, None] * ramp).flatten(1)[:, None]

    codes = torch.randint(0, 64, (1, 2, 5))
    assert perturb_codec(decode, codes, 2, 960, 64) == 0
    assert perturb_codec(decode, codes, 2, 960, 64, floor_db=-20) in (95, 96)


def test_a_codec_that_ignores_its_first_codebook_is_named() -> None:
    codes = torch.randint(0, 64, (1, 2, 5))
    with pytest.raises(ValueError, match="frame 2"):
        perturb_codec(lambda codes: codes[:, 1:].float(), codes, 2, 960, 64)
    with pytest.raises(ValueError, match=r"0 \.\.\. 4"):
        perturb_codec(decoder(0), codes, 5, 960, 64)
    with pytest.raises(ValueError, match="cannot be compared"):
        first_change(torch.zeros(1, 1, 4), torch.zeros(1, 1, 5))


@pytest.mark.parametrize("max_delay", [0, 1, 2])
def test_a_live_step_agrees_with_the_layout(max_delay: int) -> None:
    """Play steps that say at tick s the frame whose codebooks are all decided, `max_delay` ticks after the first."""
    decided = torch.randint(1, 64, (12,))

    def run(changed: int | None) -> Tensor:
        first = decided.clone()
        if changed is not None:
            first[changed] = (first[changed] + 1) % 64
        said = torch.cat([torch.zeros(max_delay, dtype=torch.long), first[: len(first) - max_delay]])
        return decoder(240)(torch.stack([said, said])[None])

    expected = algorithmic_latency(SPEC, layout(0, max_delay), codec_overlap=240)
    assert perturb_step(run, 5, 960) == expected.samples
    with pytest.raises(ValueError, match="step 11"):
        perturb_step(lambda changed: run(None), 11, 960)
