import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from s2s.codec.base import CodecSpec
from s2s.evaluation.codec import (
    CodecJudges,
    codebook_usage,
    codec_report,
    mel_distance,
    pesq_wideband,
    round_trip,
    stoi,
)
from s2s.evaluation.recognise import Transcript

from .tones import RATE, track


class SampleCodec:
    """A codec whose codebooks are the samples of a frame in 16 bits, given back `synthesis_delay` samples late."""

    def __init__(self, delay: int = 30) -> None:
        self.spec = CodecSpec(sample_rate=RATE, frame_size=160, num_codebooks=160, codebook_size=65536)
        self.synthesis_delay = delay
        self.weight = torch.eye(160)

    def init_encoder(self, rows: int) -> list[Tensor]:
        return []

    def init_decoder(self, rows: int) -> list[Tensor]:
        return [torch.zeros(rows, 1, self.synthesis_delay)]

    def encode(self, wav: Tensor, state: list[Tensor] | None = None) -> Tensor:
        frames = wav.reshape(len(wav), -1, 160) @ self.weight
        return (frames * 32767 + 32768).round().long().clamp(0, 65535).transpose(1, 2)

    def decode(self, codes: Tensor, state: list[Tensor] | None = None) -> Tensor:
        wav = ((codes.transpose(1, 2).flatten(1) - 32768) / 32767.0)[:, None]
        before = self.init_decoder(len(codes))[0] if state is None else state[0]
        late = torch.cat([before, wav], dim=-1)
        if state is not None and self.synthesis_delay:
            before.copy_(late[..., -self.synthesis_delay :])
        return late[..., : wav.shape[-1]]


def speechlike(seconds: float = 1.5) -> np.ndarray:
    """Return noise whose loudness moves like syllables."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    loud = np.sin(2 * np.pi * 4 * np.arange(len(noise)) / RATE) ** 2
    return (0.1 * noise * loud).astype(np.float32)


@pytest.mark.parametrize("delay", [0, 30, 400])
@pytest.mark.parametrize("length", [1600, 1601, 77])
def test_round_trip_takes_the_delay_off_and_keeps_the_length(delay: int, length: int) -> None:
    wav = speechlike()[:length]
    trip = round_trip(SampleCodec(delay), wav, RATE)
    assert trip.after.shape == trip.before.shape == (length,)
    assert np.abs(trip.after - wav).max() < 1e-4
    assert trip.codes.shape[0] == 160


def test_usage_and_perplexity_of_known_codes() -> None:
    spec = CodecSpec(frame_size=960, num_codebooks=3, codebook_size=8)
    codes = np.array([[0, 0, 0, 0], [0, 1, 2, 3], [5, 5, 7, 7]])
    first, second, third = codebook_usage([codes, codes], spec)
    assert first == {"used": 1 / 8, "perplexity": pytest.approx(1.0), "entropy_bits": pytest.approx(0.0)}
    assert second == {"used": 4 / 8, "perplexity": pytest.approx(4.0), "entropy_bits": pytest.approx(2.0)}
    assert third["perplexity"] == pytest.approx(2.0)


def test_mel_distance_is_a_level_difference_in_natural_logarithm() -> None:
    wav = speechlike()
    assert mel_distance(wav, wav, RATE) == 0.0
    assert mel_distance(wav + 0.1, np.e * (wav + 0.1), RATE) == pytest.approx(1.0, abs=0.05)
    assert mel_distance(wav[:50], wav[:50], RATE) == 0.0


def test_pesq_and_stoi_fall_with_noise() -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    clean = speechlike(3.0)
    noisy = clean + 0.1 * np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
    assert stoi(clean, clean, RATE) > 0.99 > 0.95 > stoi(clean, noisy, RATE)
    same, worse = pesq_wideband(clean, clean, RATE), pesq_wideband(clean, noisy, RATE)
    assert same is not None
    assert worse is not None
    assert same > 4.5 > worse
    assert pesq_wideband(np.zeros(RATE, np.float32), np.zeros(RATE, np.float32), RATE) is None


class Counter:
    """Hears "one", "two", ... from call to call and scores every recording by its length."""

    calls = 0

    def transcribe(self, wav: np.ndarray, sample_rate: int, word_times: bool = True) -> Transcript:
        self.calls += 1
        return Transcript("alpha beta gamma" if self.calls <= 2 else "alpha beta delta", ())

    def score(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[float]:
        return [len(wav) / sample_rate for wav in wavs]


def test_report_has_every_part_and_is_json() -> None:
    pytest.importorskip("whisper_normalizer")
    pytest.importorskip("jiwer")
    wavs = [track(1.0, (0.1, 0.9)), track(0.5, (0.1, 0.4))]
    judges = CodecJudges(recogniser=Counter(), naturalness=Counter())
    report = codec_report(SampleCodec(), wavs, RATE, ["Alpha, beta, gamma."] * 2, judges)
    assert json.loads(json.dumps(report)) == report
    assert report["seconds"] == pytest.approx(1.5)
    assert report["bits_per_second"] == 100 * 160 * 16
    assert report["words"]["before"]["errors"] == 0
    assert (report["words"]["after"]["errors"], report["words"]["after"]["words"]) == (2, 6)
    assert report["dmos_before"]["max"] == pytest.approx(1.0)
    assert report["mel_distance"]["max"] < 0.1
    assert report["cost"]["encode_macs_per_s"] == 100 * 160 * 160
    assert report["cost"]["decode_macs_per_s"] == 0
    assert report["cost"]["encode"]["rtfx_streaming"] > 0
    assert report["cost"]["decode"]["frame_ms"]["n"] == 100
    assert "pesq_wb" not in report


def test_without_transcripts_the_original_is_the_reference() -> None:
    pytest.importorskip("whisper_normalizer")
    pytest.importorskip("jiwer")
    judges = CodecJudges(recogniser=Counter(), cost=False)
    words = codec_report(SampleCodec(), [track(0.5, (0.1, 0.4))] * 2, RATE, judges=judges)["words"]
    assert words["before"] is None
    assert words["after"]["errors"] == 2


def test_wrong_input_is_named() -> None:
    codec = SampleCodec()
    with pytest.raises(ValueError, match="at least one"):
        codec_report(codec, [], RATE)
    with pytest.raises(ValueError, match="2 transcripts for 1"):
        codec_report(codec, [speechlike()], RATE, ["a", "b"])
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        round_trip(codec, np.zeros((2, 5), np.float32), RATE)
