"""Latency: the algorithmic latency, computed from the layout and confirmed by perturbation.

It runs from the first sample of a caller frame entering the encoder to the first output sample shaped by what the model
decided on hearing that frame (its first codebook) leaving the decoder, with infinite compute:
frame + largest delay of the spoken stream + look-ahead and overlap of the codec.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.codec.base import CodecSpec
from s2s.streams import StreamLayout


@dataclass(frozen=True)
class AlgorithmicLatency:
    """The parts of the algorithmic latency in samples at `sample_rate`."""

    frame: int
    delay: int
    codec: int
    sample_rate: int

    @property
    def samples(self) -> int:
        """The sum of the parts."""
        return self.frame + self.delay + self.codec

    def to_json(self) -> dict[str, float]:
        """Return the parts and their sum in milliseconds."""
        parts = {"frame": self.frame, "delay": self.delay, "codec": self.codec, "total": self.samples}
        return {f"{name}_ms": samples * 1000 / self.sample_rate for name, samples in parts.items()}


def algorithmic_latency(
    spec: CodecSpec, layout: StreamLayout, codec_overlap: int, stream: str = "agent"
) -> AlgorithmicLatency:
    """Return the algorithmic latency of `layout` with a codec of `spec`.

    `codec_overlap` is the codec's own look-ahead and overlap in samples, both directions together: how far behind its
    place in time the sound of a frame may start. The delay that counts is from the stream's first codebook to its most
    delayed one, since a frame is heard when all its codebooks are decided.
    """
    if codec_overlap < 0:
        raise ValueError(f"codec_overlap must be at least 0 samples, not {codec_overlap}")
    delays = layout.stream(stream).delays
    return AlgorithmicLatency(
        frame=spec.frame_size,
        delay=(max(delays) - delays[0]) * spec.frame_size,
        codec=codec_overlap,
        sample_rate=spec.sample_rate,
    )


def first_change(reference: Tensor, changed: Tensor, floor_db: float | None = None) -> int | None:
    """Return the index of the first sample along the last dimension where two outputs differ, or None.

    Without `floor_db` any difference counts, bit for bit; with it, only differences within that many dB of the largest
    one (-40: what a listener might notice).
    """
    if reference.shape != changed.shape:
        raise ValueError(f"outputs of shape {tuple(reference.shape)} and {tuple(changed.shape)} cannot be compared")
    difference = (reference.double() - changed.double()).abs().reshape(-1, reference.shape[-1]).amax(dim=0)
    floor = 0.0 if floor_db is None else float(difference.max()) * 10 ** (floor_db / 20)
    found = torch.nonzero(difference > floor)
    return int(found[0]) if len(found) else None


def perturb_codec(
    decode: Callable[[Tensor], Tensor],
    codes: Tensor,
    frame: int,
    frame_size: int,
    codebook_size: int,
    floor_db: float | None = None,
) -> int:
    """Return the first output sample that a changed first-codebook token moves, counted from the frame's first sample.

    `decode` takes codes [1, K, T] to wav [1, 1, N]; the token of `frame` is replaced by four others and the earliest
    change is taken. Negative: the decoder answers before the frame's place in time (it is not causal). Raises
    ValueError when nothing changes.
    """
    frames = codes.shape[-1]
    if not 0 <= frame < frames:
        raise ValueError(f"frame must be in 0 ... {frames - 1}, not {frame}")
    reference = decode(codes)
    token = int(codes[0, 0, frame])
    found = []
    for step in range(1, 5):
        changed = codes.clone()
        changed[0, 0, frame] = (token + step * max(codebook_size // 5, 1)) % codebook_size
        if int(changed[0, 0, frame]) != token:
            found.append(first_change(reference, decode(changed), floor_db))
    heard = [index for index in found if index is not None]
    if not heard:
        raise ValueError(f"no output sample depends on the first codebook of frame {frame}: codes too short or unused")
    return min(heard) - frame * frame_size


def perturbed_latency(
    decode: Callable[[Tensor], Tensor],
    codes: Tensor,
    spec: CodecSpec,
    layout: StreamLayout,
    stream: str = "agent",
    floor_db: float | None = None,
) -> AlgorithmicLatency:
    """Return the algorithmic latency with the codec's part measured by `perturb_codec` in the middle of `codes`."""
    part = perturb_codec(decode, codes, codes.shape[-1] // 2, spec.frame_size, spec.codebook_size, floor_db)
    computed = algorithmic_latency(spec, layout, codec_overlap=0, stream=stream)
    return AlgorithmicLatency(computed.frame, computed.delay, part, spec.sample_rate)


def perturb_step(run: Callable[[int | None], Tensor], step: int, frame_size: int, floor_db: float | None = None) -> int:
    """Return the algorithmic latency in samples of a whole live step.

    `run(step)` plays the same input from a fresh state with the first-codebook token decided at that step replaced by
    another, `run(None)` without any change; both return the outputs of all steps joined, wav [1, 1, N]. The output of a
    step leaves when its input frame is complete, hence the frame that is added. Raises ValueError when nothing changes.
    """
    index = first_change(run(None), run(step), floor_db)
    if index is None:
        raise ValueError(f"no output sample depends on the first codebook decided at step {step}")
    return index + frame_size - step * frame_size
