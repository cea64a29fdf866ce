"""Audio of the wire: bytes to samples and back, in any packets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.audio.level import Fader, loudest_dbfs
from s2s.gateway.formats import Decoder, Encoder, WireFormat

FORMATS = [WireFormat(), WireFormat("pcm16", 16000), WireFormat("mulaw", 8000), WireFormat("alaw", 8000)]


@pytest.mark.parametrize("wire", FORMATS)
def test_a_tone_survives_both_ways(wire: WireFormat) -> None:
    tone = np.rint(8000 * np.sin(2 * np.pi * 500 * np.arange(24000) / 24000)).astype(np.int16)
    data = Encoder(wire, 24000).encode(tone)
    assert len(data) == pytest.approx(wire.rate * (2 if wire.encoding == "pcm16" else 1), abs=100)
    back = Decoder(wire, 24000).decode(data)
    assert np.abs(back[2000:20000].astype(int) - tone[2000:20000]).max() < 300


@settings(max_examples=30)
@given(st.sampled_from(FORMATS), st.binary(max_size=400), st.integers(1, 60))
def test_packets_are_the_same_as_the_whole(wire: WireFormat, data: bytes, packet: int) -> None:
    data, packet = data[: len(data) // 2 * 2], 2 * packet
    whole = Decoder(wire, 24000).decode(data)
    decoder = Decoder(wire, 24000)
    pieces = [decoder.decode(data[start : start + packet]) for start in range(0, len(data), packet)]
    assert np.array_equal(np.concatenate([*pieces, whole[:0]]), whole)


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes are no whole number of 16-bit samples"):
        Decoder(WireFormat(), 24000).decode(b"abc")


def test_a_fader_moves_in_a_straight_line_at_any_packets() -> None:
    pcm = np.full(100, 1000, dtype=np.int16)
    fader = Fader(50)
    fader.fade_to(0.0)
    assert fader.target == 0.0
    whole = fader.process(pcm)
    assert whole[:50].tolist() == [1000 - 20 * n for n in range(1, 51)] and not whole[50:].any()
    fader = Fader(50)
    fader.fade_to(0.0)
    assert np.array_equal(np.concatenate([fader.process(pcm[:33]), fader.process(pcm[33:])]), whole)
    fader.fade_to(1.0)
    assert fader.process(pcm)[-1] == 1000 and fader.process(pcm) is pcm
    fader.jump_to(0.5)
    assert set(fader.process(pcm)) == {500}


def test_the_loudest_block_counts() -> None:
    pcm = np.zeros(960, dtype=np.int16)
    assert loudest_dbfs(pcm, 240) == -np.inf == loudest_dbfs(pcm[:0], 240)
    pcm[480:720] = 3277
    assert loudest_dbfs(pcm, 240) == pytest.approx(-20.0, abs=0.01)
    assert loudest_dbfs(pcm[480:500], 240) == pytest.approx(-20.0, abs=0.01)
