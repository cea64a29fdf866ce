"""Audio files: every common kind is read, and each kind of failure is one clear AudioError."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from s2s.audio.io import AudioError, encode_flac, read_audio, write_wav


@pytest.fixture
def wav(rng: np.random.Generator) -> np.ndarray:
    """Two channels of noise [2, 4000] whose values 16 bits hold exactly."""
    return (rng.integers(-20000, 20000, (2, 4000)) / 32768).astype(np.float32)


def encoded(wav: np.ndarray, rate: int = 24000, **options: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wav.T, rate, **{"format": "WAV", "subtype": "PCM_16"} | options)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_any_rate_and_channel_count(wav: np.ndarray, rate: int, channels: int) -> None:
    samples, found = read_audio(encoded(wav[:channels], rate))
    assert found == rate
    assert samples.dtype == np.float32
    assert samples.flags.c_contiguous
    assert np.array_equal(samples, wav[:channels])


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"subtype": "FLOAT"}, 0),
        ({"subtype": "PCM_24"}, 0),
        ({"subtype": "PCM_U8"}, 0.01),
        ({"subtype": "ULAW"}, 0.03),
        ({"subtype": "ALAW"}, 0.03),
        ({"format": "FLAC"}, 0),
        ({"format": "AIFF"}, 0),
        ({"format": "RF64"}, 0),
    ],
)
def test_any_encoding(wav: np.ndarray, options: dict[str, str], tolerance: float) -> None:
    samples, rate = read_audio(encoded(wav, 8000, **options))
    assert rate == 8000
    assert np.abs(samples - wav).max() <= tolerance


def test_lossy_formats_are_read() -> None:
    tone = np.sin(np.arange(24000) / 20)[None].astype(np.float32)
    samples, rate = read_audio(encoded(tone, 24000, format="OGG", subtype="OPUS"))
    assert (samples.shape, rate) == ((1, 24000), 24000)
    assert np.abs(samples - tone)[:, 2000:-2000].max() < 0.1


def test_any_source(tmp_path: Path, wav: np.ndarray) -> None:
    data = encoded(wav)
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (path, str(path), data, io.BytesIO(data), file):
            assert np.array_equal(read_audio(source)[0], wav)


def test_the_extension_is_not_believed(tmp_path: Path, wav: np.ndarray) -> None:
    for name in ("a.raw", "a.mp3", "a"):
        (tmp_path / name).write_bytes(encoded(wav))
        assert np.array_equal(read_audio(tmp_path / name)[0], wav)


def test_a_wav_that_was_written_to_a_pipe_is_read(wav: np.ndarray) -> None:
    data = bytearray(encoded(wav))
    for size in (0xFFFFFFFF, 0x7FFFF000):
        struct.pack_into("<I", data, data.index(b"data") + 4, size)
        assert np.array_equal(read_audio(bytes(data))[0], wav)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello, this is no audio at all" * 10, "not audio"),
        (b"RIFF\x00\x00\x00\x00WAVE", "not audio"),
        (encoded(np.zeros((1, 0))), "no samples"),
        (encoded(np.array([[0.0, np.nan]]), subtype="FLOAT"), "NaN"),
        (encoded(np.array([[0.0, np.inf]]), subtype="FLOAT"), "NaN or infinite"),
        (encoded(np.zeros((1, 4000)))[:-2000], "truncated.*8000 bytes.*6000"),
        (encoded(np.zeros((1, 4000)))[:20], "not audio"),
    ],
    ids=["empty", "text", "header only", "no samples", "nan", "infinity", "cut samples", "cut header"],
)
def test_unusable_bytes(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=f"call.wav: .*{words}"):
        read_audio(path)
    with pytest.raises(AudioError, match=f"audio buffer: .*{words}"):
        read_audio(data)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_truncated_flac(rng: np.random.Generator, cut: float) -> None:
    data = encoded(rng.standard_normal((1, 48000)) * 0.1, format="FLAC")
    with pytest.raises(AudioError, match=r"truncated|not audio"):
        read_audio(data[: int(len(data) * cut)])


def test_a_lying_flac_header_costs_no_memory(wav: np.ndarray) -> None:
    data = bytearray(encoded(wav, format="FLAC"))
    data[21] |= 0x0F  # the upper bits of the 36-bit sample count
    data[22:26] = b"\xff" * 4
    with pytest.raises(AudioError, match=r"truncated|not audio"):
        read_audio(bytes(data))


def test_unreadable_places(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"missing\.wav: no such file"):
        read_audio(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match="is a directory"):
        read_audio(tmp_path)
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio("a\0b.wav")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio(tmp_path / "file" / "a.wav")


def test_an_audio_error_is_a_value_error() -> None:
    assert issubclass(AudioError, ValueError)


def test_write_and_read_back(tmp_path: Path, wav: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", wav, 24000)
    assert np.array_equal(read_audio(tmp_path / "a.wav")[0], wav)
    write_wav(str(tmp_path / "a.wav"), wav[0].astype(np.float64), 8000)  # replaces the file
    samples, rate = read_audio(tmp_path / "a.wav")
    assert rate == 8000
    assert np.array_equal(samples, wav[:1])
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_name_without_extension_is_still_a_wav(tmp_path: Path, wav: np.ndarray) -> None:
    write_wav(tmp_path / "out", wav, 24000)
    assert np.array_equal(read_audio(tmp_path / "out")[0], wav)


def test_flac_bytes_read_back(wav: np.ndarray) -> None:
    samples, rate = read_audio(encode_flac(wav, 24000))
    assert rate == 24000
    assert np.array_equal(samples, wav)
    assert np.array_equal(read_audio(encode_flac(wav[0], 8000))[0], wav[:1])
    with pytest.raises(AudioError, match="NaN"):
        encode_flac(np.array([np.nan]), 24000)


def test_samples_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([2.0, -2.0]), 24000)
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [[32767 / 32768, -1.0]]


@pytest.mark.parametrize("place", [".", "missing/a.wav", "file/a.wav", "a" * 300 + ".wav"])
def test_unwritable_places(tmp_path: Path, wav: np.ndarray, place: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(AudioError, match="cannot write"):
        write_wav(tmp_path / place, wav, 24000)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, wav: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, wav, 24000)

    def full_disk(file: Path, *_: object, **__: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full_disk)
    with pytest.raises(AudioError, match="No space left"):
        write_wav(path, wav * 0, 24000)
    assert np.array_equal(read_audio(path)[0], wav)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_bad_samples_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="NaN"):
        write_wav(tmp_path / "a.wav", np.array([0.0, np.nan]), 24000)
    with pytest.raises(ValueError, match="got shape"):
        write_wav(tmp_path / "a.wav", np.zeros((1, 1, 1)), 24000)
    assert not list(tmp_path.iterdir())
