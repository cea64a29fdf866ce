"""Codec report: what the round trip through a codec does to speech, and what it costs in bits, products and time."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from s2s.audio.mel import LogMel
from s2s.audio.resample import resample
from s2s.codec.base import Codec, CodecSpec
from s2s.evaluation.bandwidth import torch_threads
from s2s.evaluation.extras import require
from s2s.evaluation.macs import count_macs
from s2s.evaluation.recognise import Hears
from s2s.evaluation.statistics import summarise
from s2s.evaluation.word_errors import word_error_rate

logger = logging.getLogger(__name__)

_WIDEBAND_HZ = 16000
_TIMED_FRAMES = 100


class Scores(Protocol):
    """A judge of naturalness."""

    def score(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[float]: ...


@dataclass(frozen=True)
class CodecJudges:
    """What to measure besides usage and mel distance; each judge left out is absent from the report."""

    recogniser: Hears | None = None
    naturalness: Scores | None = None
    pesq: bool = False
    stoi: bool = False
    cost: bool = True


@dataclass(frozen=True)
class RoundTrip:
    """One recording at the codec's rate: `before` and `after` [N] aligned in time, and its codes [K, T]."""

    before: np.ndarray
    after: np.ndarray
    codes: np.ndarray


@torch.inference_mode()
def round_trip(codec: Codec, wav: np.ndarray, sample_rate: int) -> RoundTrip:
    """Send wav [N] through the codec and back; the codec's delay is taken off, so that both sides are on one clock.

    Raises ValueError on an empty recording or one of several channels.
    """
    if wav.ndim != 1 or len(wav) == 0:
        raise ValueError(f"the codec report takes recordings of shape [N] with N > 0, not {wav.shape}")
    before = resample(np.asarray(wav, dtype=np.float32), sample_rate, codec.spec.sample_rate)
    delay = codec.synthesis_delay
    padded = _whole_frames(before, codec.spec, len(before) + delay)
    codes = codec.encode(padded)
    after = codec.decode(codes)[0, 0, delay : delay + len(before)]
    return RoundTrip(before, after.float().numpy(), codes[0].numpy())


def _whole_frames(wav: np.ndarray, spec: CodecSpec, num_samples: int) -> Tensor:
    """Return wav [1, 1, N'], extended by silence to at least `num_samples` and to whole frames."""
    frames = -(-num_samples // spec.frame_size)
    padded = np.zeros(frames * spec.frame_size, dtype=np.float32)
    padded[: min(len(wav), len(padded))] = wav[: len(padded)]
    return torch.from_numpy(padded)[None, None]


def codebook_usage(codes: Sequence[np.ndarray], spec: CodecSpec) -> list[dict[str, float]]:
    """Return per level the share of entries used, the perplexity of their use and its entropy in bits.

    `codes` are arrays [K, T]; few frames bound all three: T frames cannot use more than T entries.
    """
    joined = np.concatenate(list(codes), axis=1)
    report = []
    for level in joined:
        share = np.bincount(level, minlength=spec.codebook_size) / len(level)
        entropy = float(-np.sum(share[share > 0] * np.log2(share[share > 0])))
        used = float(np.count_nonzero(share)) / spec.codebook_size
        report.append({"used": used, "perplexity": 2.0**entropy, "entropy_bits": entropy})
    return report


@torch.inference_mode()
def mel_distance(before: np.ndarray, after: np.ndarray, sample_rate: int) -> float:
    """Return the mean absolute difference of log-mel magnitudes (natural log, 1024-point windows, 80 bands)."""
    features = LogMel(sample_rate, n_fft=1024, num_mels=80)
    length = max(len(before), 1024)  # a window reflects at both ends and needs this much
    pair = np.zeros((2, length), dtype=np.float32)
    pair[0, : len(before)], pair[1, : len(after)] = before, after
    one, other = features(torch.from_numpy(pair))
    return float((one - other).abs().mean())


def pesq_wideband(before: np.ndarray, after: np.ndarray, sample_rate: int) -> float | None:
    """Return ITU-T P.862.2 (1 ... 4.64), or None where it finds no speech."""
    package = require("pesq")
    if not before.any() or not after.any():
        return None
    try:
        one, other = (resample(wav, sample_rate, _WIDEBAND_HZ) for wav in (before, after))
        return float(package.pesq(_WIDEBAND_HZ, one, other, "wb"))
    except (package.NoUtterancesError, package.BufferTooShortError):
        return None


def stoi(before: np.ndarray, after: np.ndarray, sample_rate: int) -> float:
    """Return the short-time objective intelligibility, at most 1 (Taal et al. 2011)."""
    return float(require("pystoi").stoi(before, after, sample_rate))


def _words(
    trips: Sequence[RoundTrip], references: Sequence[str] | None, rate: int, recogniser: Hears
) -> dict[str, Any]:
    """WER before and after; without transcripts, what is heard before is the reference."""
    before = [recogniser.transcribe(trip.before, rate, word_times=False).text for trip in trips]
    after = [recogniser.transcribe(trip.after, rate, word_times=False).text for trip in trips]
    if references is None:
        return {"reference": "the recogniser on the original", "before": None, "after": word_error_rate(before, after)}
    return {
        "reference": "transcripts",
        "before": word_error_rate(references, before),
        "after": word_error_rate(references, after),
    }


def _pairs(trips: Sequence[RoundTrip], measure: Callable[..., float | None], rate: int) -> dict[str, Any]:
    values = [measure(trip.before, trip.after, rate) for trip in trips]
    known = [value for value in values if value is not None]
    return summarise(known, failures=len(values) - len(known))


def codec_cost(codec: Codec, wav: np.ndarray, threads: int = 1) -> dict[str, Any]:
    """Return MACs per second of audio and RTFx of both directions, on `threads` threads.

    wav [N] at the codec's rate, repeated or cut to 100 frames. "streaming" is one frame at a time with a state, as a
    live call runs it, from the median frame; "whole" is everything in one go. MACs are counted on the streaming run.
    """
    spec = codec.spec
    audio = _whole_frames(np.resize(wav, _TIMED_FRAMES * spec.frame_size), spec, _TIMED_FRAMES * spec.frame_size)
    seconds = float(_TIMED_FRAMES / spec.frame_rate)
    with torch_threads(threads), torch.inference_mode():
        codes = codec.encode(audio)
        chunks = list(audio.split(spec.frame_size, dim=-1))
        columns = list(codes.split(1, dim=-1))
        encoder, decoder = codec.init_encoder(1), codec.init_decoder(1)
        macs = {
            "encode_macs_per_s": count_macs(lambda: [codec.encode(chunk, encoder) for chunk in chunks]) / seconds,
            "decode_macs_per_s": count_macs(lambda: [codec.decode(column, decoder) for column in columns]) / seconds,
        }
        times = {
            "encode": _times(codec.encode, chunks, encoder, spec),
            "decode": _times(codec.decode, columns, decoder, spec),
        }
        for name, work in (("encode", lambda: codec.encode(audio)), ("decode", lambda: codec.decode(codes))):
            times[name]["rtfx_whole"] = seconds / min(_seconds(work) for _ in range(3))
    return {**macs, **times, "threads": threads}


def _times(work: Callable[..., object], chunks: Sequence[Tensor], state: Any, spec: CodecSpec) -> dict[str, Any]:
    """Time one call per frame on a warm state."""
    frame_ms = [_seconds(lambda chunk=chunk: work(chunk, state)) * 1000 for chunk in chunks]  # type: ignore[misc]
    summary = summarise(frame_ms)
    period_ms = float(1000 / spec.frame_rate)
    return {"rtfx_streaming": period_ms / summary["p50"], "frame_ms": summary}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def codec_report(
    codec: Codec,
    wavs: Sequence[np.ndarray],
    sample_rate: int,
    references: Sequence[str] | None = None,
    judges: CodecJudges | None = None,
) -> dict[str, Any]:
    """Return the report over recordings [N] at `sample_rate`, ready for JSON.

    `references` are their transcripts; without them the recogniser's own text of the original is the reference. Raises
    ValueError when there are no recordings or not as many transcripts.
    """
    judges = judges or CodecJudges()
    if not wavs:
        raise ValueError("the codec report needs at least one recording")
    if references is not None and len(references) != len(wavs):
        raise ValueError(f"{len(references)} transcripts for {len(wavs)} recordings")
    spec, rate = codec.spec, codec.spec.sample_rate
    trips = [round_trip(codec, wav, sample_rate) for wav in wavs]
    usage = codebook_usage([trip.codes for trip in trips], spec)
    report: dict[str, Any] = {
        "n": len(trips),
        "seconds": sum(len(trip.before) for trip in trips) / rate,
        "bits_per_second": spec.bits_per_second,
        "entropy_bits_per_second": float(spec.frame_rate) * sum(level["entropy_bits"] for level in usage),
        "delay_ms": codec.synthesis_delay * 1000 / rate,
        "codebooks": usage,
        "mel_distance": _pairs(trips, mel_distance, rate),
    }
    if judges.recogniser is not None:
        report["words"] = _words(trips, references, rate, judges.recogniser)
    if judges.naturalness is not None:
        for side in ("before", "after"):
            scores = judges.naturalness.score([getattr(trip, side) for trip in trips], rate)
            report[f"dmos_{side}"] = summarise(scores)
    if judges.pesq:
        report["pesq_wb"] = _pairs(trips, pesq_wideband, rate)
    if judges.stoi:
        report["stoi"] = _pairs(trips, stoi, rate)
    if judges.cost:
        longest = max((trip.before for trip in trips), key=len)
        report["cost"] = codec_cost(codec, longest)
    return report
