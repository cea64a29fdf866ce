"""Wire formats against the tables of ITU-T G.711 and against libsndfile, an independent implementation."""

import io

import numpy as np
import pytest
import soundfile

from s2s.audio.pcm import alaw_decode, alaw_encode, float_to_int16, int16_to_float, mulaw_decode, mulaw_encode

ALL_INT16 = np.arange(65536, dtype=np.uint16).view(np.int16)
ALL_CODES = np.arange(256, dtype=np.uint8)
LAWS = {"ULAW": (mulaw_encode, mulaw_decode), "ALAW": (alaw_encode, alaw_decode)}


def test_int16_round_trip_is_exact() -> None:
    assert np.array_equal(float_to_int16(int16_to_float(ALL_INT16)), ALL_INT16)


def test_float_to_int16_rounds_clips_and_silences_nan() -> None:
    wav = np.array([0.0, 0.4 / 32768, 0.6 / 32768, 1.0, -1.0, 7.0, -7.0, np.inf, -np.inf, np.nan])
    expected = [0, 0, 1, 32767, -32768, 32767, -32768, 32767, -32768, 0]
    assert float_to_int16(wav).tolist() == expected


# Tables 1 and 2 of G.711: the first output value of each segment and the step within it, in units of a 13 (A-law) and a
# 14 bit (mu-law) sample. The largest values, 4032 and 8031, follow.
MULAW_POSITIVE = [0, 33, 99, 231, 495, 1023, 2079, 4191]
MULAW_STEP = [2, 4, 8, 16, 32, 64, 128, 256]
ALAW_POSITIVE = [1, 33, 66, 132, 264, 528, 1056, 2112]
ALAW_STEP = [2, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("segment", range(8))
def test_mulaw_decodes_to_the_table_of_the_standard(segment: int) -> None:
    values = MULAW_POSITIVE[segment] + MULAW_STEP[segment] * np.arange(16)
    codes = (255 - 16 * segment - np.arange(16)).astype(np.uint8)
    assert mulaw_decode(codes).tolist() == (4 * values).tolist()
    assert mulaw_decode(codes & 0x7F).tolist() == (-4 * values).tolist()


@pytest.mark.parametrize("segment", range(8))
def test_alaw_decodes_to_the_table_of_the_standard(segment: int) -> None:
    values = ALAW_POSITIVE[segment] + ALAW_STEP[segment] * np.arange(16)
    codes = ((0x80 | (16 * segment + np.arange(16))) ^ 0x55).astype(np.uint8)
    assert alaw_decode(codes).tolist() == (8 * values).tolist()
    assert alaw_decode(codes & 0x7F).tolist() == (-8 * values).tolist()


@pytest.mark.parametrize("law", LAWS)
def test_all_codes_round_trip(law: str) -> None:
    encode, decode = LAWS[law]
    again = encode(decode(ALL_CODES))
    different = ALL_CODES[again != ALL_CODES].tolist()
    # Mu-law has two zeros; a linear sample cannot say which.
    assert different == ([0x7F] if law == "ULAW" else [])
    assert np.array_equal(decode(again), decode(ALL_CODES))


@pytest.mark.parametrize("law", LAWS)
def test_every_sample_and_code_agrees_with_libsndfile(law: str) -> None:
    encode, decode = LAWS[law]
    raw = io.BytesIO()
    soundfile.write(raw, ALL_INT16, 8000, format="RAW", subtype=law)
    assert np.array_equal(encode(ALL_INT16), np.frombuffer(raw.getvalue(), dtype=np.uint8))
    pcm, _ = soundfile.read(
        io.BytesIO(ALL_CODES.tobytes()), dtype="int16", samplerate=8000, channels=1, format="RAW", subtype=law
    )
    assert np.array_equal(decode(ALL_CODES), pcm)


def test_the_shape_is_kept_and_the_type_checked() -> None:
    assert mulaw_encode(np.zeros((2, 3), dtype=np.int16)).shape == (2, 3)
    assert (
        mulaw_encode(np.arange(10, dtype=np.int16)[::2]).tolist()
        == mulaw_encode(np.arange(0, 10, 2, dtype=np.int16)).tolist()
    )
    with pytest.raises(ValueError, match="int16, got float32"):
        mulaw_encode(np.zeros(3, dtype=np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8, got int64"):
        alaw_decode(np.zeros(3, dtype=np.int64))  # type: ignore[arg-type]
