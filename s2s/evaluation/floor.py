"""Latency floor: the algorithmic latency of a loaded model, computed, and confirmed through its decoder and step."""

from typing import Any

import torch

from s2s.checkpoint import Bundle
from s2s.evaluation.latency import algorithmic_latency, perturb_step, perturbed_latency
from s2s.evaluation.speed import perturbed_run
from s2s.models.step import DuplexStep

_STEPS = 16
_CHANGED = 8
AUDIBLE_DB = -40.0  # relative to the largest change: what a listener might notice


def latency_floor(bundle: Bundle) -> dict[str, Any]:
    """Return the parts of the algorithmic latency and where a changed first-codebook token is first heard, in ms.

    Twice: the first sample that differs at all, and the first one within 40 dB of the largest difference. The
    computed value holds when neither comes later.
    """
    step = bundle.step()
    assert isinstance(step, DuplexStep)
    spec, layout, stream = bundle.codec.spec, step.model.layout, step.audio_stream.name
    computed = algorithmic_latency(spec, layout, bundle.codec.synthesis_delay, stream)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(spec.codebook_size, (1, spec.num_codebooks, _STEPS), generator=generator)
    run = perturbed_run(step, _STEPS)
    found = {}
    with torch.inference_mode():
        for name, floor_db in (("any", None), ("audible", AUDIBLE_DB)):
            decoded = perturbed_latency(bundle.codec.decode, codes, spec, layout, stream, floor_db)
            found[f"decoder_{name}_ms"] = decoded.to_json()["total_ms"]
            stepped = perturb_step(run, _CHANGED, spec.frame_size, floor_db)
            found[f"step_{name}_ms"] = stepped * 1000 / spec.sample_rate
    total_ms = computed.to_json()["total_ms"]
    return {
        "computed": computed.to_json(),
        "algorithmic_latency_ms": total_ms,
        "confirmed": found,
        "agrees": max(found.values()) <= total_ms,
    }
