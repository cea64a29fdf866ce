"""Our codec: its numbers, its inverse STFT and its training pass. Its streaming is tested by the contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from s2s.codec.base import CodecSpec
from s2s.codec.spectral import SpectralCodec, SpectralCodecConfig
from tests.tiny import SMALL_SPEC, SPEC, tiny_codec, tiny_codec_config


def test_one_frame_in_is_one_frame_out() -> None:
    codec = tiny_codec()
    wav = torch.randn(2, 1, 3 * SPEC.frame_size)
    codes = codec.encode(wav)
    assert codes.shape == (2, SPEC.num_codebooks, 3) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < SPEC.codebook_size
    decoded = codec.decode(codes)
    assert decoded.shape == wav.shape and decoded.isfinite().all()
    assert codec.decode(codes[:, :2]).shape == wav.shape


@pytest.mark.parametrize("overlap", [2, 3, 4])
def test_windows_add_up_to_the_signal_but_one_hop_of_them_late(overlap: int) -> None:
    config = replace(tiny_codec_config(SMALL_SPEC), synthesis_hop=4, synthesis_window=4 * overlap)
    codec, delay = SpectralCodec(config).eval(), 4 * (overlap - 1)
    assert codec.synthesis_delay == delay
    wav = torch.randn(1, 96)
    frames = torch.nn.functional.pad(wav, (delay, 0)).unfold(-1, 4 * overlap, 4)
    out = codec.decoder._overlap_add(torch.fft.rfft(frames), None)
    torch.testing.assert_close(out[:, delay:], wav[:, :-delay], rtol=0, atol=1e-5)
    state, parts = codec.init_decoder(1), []
    for part in torch.fft.rfft(frames).split([1, 7, 2, 14], dim=1):
        parts.append(codec.decoder._overlap_add(part, state))
    torch.testing.assert_close(torch.cat(parts, dim=1), out, rtol=0, atol=1e-6)


def test_the_hop_of_the_decoder_is_its_own() -> None:
    config = replace(tiny_codec_config(SMALL_SPEC), synthesis_hop=4, synthesis_window=16)
    codec = SpectralCodec(config).eval()
    codes = torch.randint(SMALL_SPEC.codebook_size, (2, 3, 5))
    with torch.no_grad():
        whole, state = codec.decode(codes), codec.init_decoder(2)
        assert whole.shape == (2, 1, 5 * SMALL_SPEC.frame_size)
        parts = [codec.decode(part, state) for part in codes.split([1, 3, 1], dim=-1)]
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole)


def test_the_training_pass_equals_serving() -> None:
    codec = tiny_codec(SMALL_SPEC)
    wav = torch.randn(2, 1, 6 * SMALL_SPEC.frame_size)
    with torch.no_grad():
        decoded, quantised = codec(wav)
        assert torch.equal(quantised.codes, codec.encode(wav))
        torch.testing.assert_close(decoded, codec.decode(quantised.codes))
        fewer, _ = codec(wav, torch.tensor([2, 3]))
        torch.testing.assert_close(fewer[:1], codec.decode(quantised.codes[:1, :2]))


def test_gradients_reach_every_parameter() -> None:
    codec = tiny_codec(SMALL_SPEC)
    decoded, quantised = codec(torch.randn(2, 1, 6 * SMALL_SPEC.frame_size))
    (decoded.square().mean() + quantised.commitment).backward()
    missing = [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_loudness_and_silence_are_told_apart() -> None:
    codec = tiny_codec()
    noise = torch.randn(1, 1, 8 * SPEC.frame_size)
    loud, silent = codec.encode(0.5 * noise), codec.encode(torch.zeros_like(noise))
    assert not torch.equal(loud, silent)
    assert codec.encode(torch.full_like(noise, 1e-9)).equal(silent)


def test_extreme_codes_stay_finite() -> None:
    codec = tiny_codec(SMALL_SPEC)
    codec.quantizer.codebooks *= 1e4
    assert codec.decode(torch.randint(SMALL_SPEC.codebook_size, (1, 3, 4))).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop_size": 7}, "frame_size 960 is not a multiple of hop_size 7"),
        ({"synthesis_window": 500}, r"synthesis_window is 500; only multiples of the hop from twice on \(480\) add up"),
        ({"synthesis_window": 240}, r"synthesis_window is 240; only multiples"),
        ({"synthesis_hop": 7}, "frame_size 960 is not a multiple of synthesis_hop 7"),
        ({"analysis_window": 239}, "analysis_window 239 is shorter than the hop 240"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SpectralCodecConfig(), **change)


def test_wrong_shapes_are_refused() -> None:
    codec = tiny_codec(SMALL_SPEC)
    with pytest.raises(ValueError, match="33 samples, which is not a multiple of the frame of 32"):
        codec.encode(torch.zeros(1, 1, 33))
    with pytest.raises(ValueError, match=r"codes have the shape \[1, 4, 2\], expected \[B, 1..3, 1 or more\]"):
        codec.decode(torch.zeros(1, 4, 2, dtype=torch.long))


def test_a_codec_without_blocks_is_a_codec() -> None:
    config = replace(
        tiny_codec_config(CodecSpec(800, 32, 1, 4)),
        hop_depth=0,
        frame_depth=0,
        decoder_frame_depth=0,
        decoder_hop_depth=0,
    )
    codec = SpectralCodec(config).eval()
    wav = torch.randn(1, 1, 96)
    state = codec.init_encoder(1)
    assert torch.equal(torch.cat([codec.encode(part, state) for part in wav.split(32, -1)], -1), codec.encode(wav))
