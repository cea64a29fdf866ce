"""Reading audio files of any common format and rate, and writing wav files, with one clear error for each failure."""

import os
import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from s2s.audio.pcm import float_to_int16

_BLOCK = 1 << 18  # frames per read: a header cannot make us allocate more than the file holds
_UNKNOWN_SIZE = 0x7FFF0000  # programs that write a wav to a pipe put this or more where the size belongs


class AudioError(ValueError):
    """A file or buffer that is not usable audio, or a place where audio cannot be written."""


def read_audio(source: Path | str | bytes | BinaryIO) -> tuple[NDArray[np.float32], int]:
    """Read a whole recording: samples float32 [C, N] (full scale 1.0, N > 0) and the sample rate in Hz.

    `source` is a path, the bytes of a file, or a binary file object. Raises AudioError when it is missing, unreadable,
    not audio, empty, shorter than its header says, or contains NaN or infinity.
    """
    name = _name(source)
    data = _read_bytes(source, name)
    if not data:
        raise AudioError(f"{name}: the file is empty")
    _check_wav_size(data, name)
    try:
        with soundfile.SoundFile(BytesIO(data)) as file:
            wav, declared, sample_rate = _read_blocks(file), file.frames, file.samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{name}: not audio that can be read ({_reason(error)})") from error
    if wav.shape[1] == 0:
        raise AudioError(f"{name}: holds no samples")
    if wav.shape[1] < declared:
        raise AudioError(f"{name}: truncated, the header promises {declared} samples, {wav.shape[1]} could be read")
    if not np.isfinite(wav).all():
        raise AudioError(f"{name}: contains NaN or infinite samples")
    return wav, sample_rate


def write_wav(path: Path | str, wav: NDArray[np.floating], sample_rate: int) -> None:
    """Write float audio [C, N] or [N] (full scale 1.0) as a 16-bit wav file.

    The file appears whole or not at all: it is written beside `path` and then renamed. Raises AudioError when it cannot
    be written or `wav` contains NaN or infinity; samples beyond full scale are clipped.
    """
    path = Path(path)
    pcm = _frames(wav, str(path))
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        if path.is_dir():
            raise AudioError(f"{path}: cannot write, it is a directory")
        if not path.parent.is_dir():
            raise AudioError(f"{path}: cannot write, the directory {path.parent} does not exist")
        soundfile.write(temporary, pcm, sample_rate, format="WAV", subtype="PCM_16")
        temporary.replace(path)
    except (OSError, soundfile.SoundFileError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise AudioError(f"{path}: cannot write ({_reason(error)})") from error


def encode_flac(wav: NDArray[np.floating], sample_rate: int) -> bytes:
    """Return float audio [C, N] or [N] as the bytes of a 16-bit FLAC file, for tables that hold audio in a column.

    Raises AudioError when `wav` contains NaN or infinity; samples beyond full scale are clipped.
    """
    buffer = BytesIO()
    soundfile.write(buffer, _frames(wav, "audio buffer"), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _frames(wav: NDArray[np.floating], name: str) -> NDArray[np.int16]:
    """Return finite audio [C, N] or [N] the way soundfile writes it, int16 [N, C]."""
    wav = np.atleast_2d(np.asarray(wav))
    if wav.ndim != 2:
        raise ValueError(f"wav must be [channels, samples] or [samples], got shape {wav.shape}")
    if not np.isfinite(wav).all():
        raise AudioError(f"{name}: not written, the audio contains NaN or infinite samples")
    return float_to_int16(wav).T


def _read_bytes(source: Path | str | bytes | BinaryIO, name: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    try:
        return Path(source).read_bytes() if isinstance(source, str | os.PathLike) else source.read()
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise AudioError(f"{name}: is a directory, not an audio file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character, a closed file object
        raise AudioError(f"{name}: cannot be read ({_reason(error)})") from error


def _read_blocks(file: soundfile.SoundFile) -> NDArray[np.float32]:
    """Return what the decoder delivers, [C, N]."""
    blocks = [np.zeros((0, file.channels), dtype=np.float32)]
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        blocks.append(block)
    return np.ascontiguousarray(np.concatenate(blocks).T)


def _check_wav_size(data: bytes, name: str) -> None:
    """Raise AudioError when a RIFF wav has fewer bytes of samples than it declares; decoders accept that silently."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    position = 12
    while position + 8 <= len(data):
        chunk, size = struct.unpack_from("<4sI", data, position)
        if chunk == b"data":
            present = len(data) - position - 8
            if present < size < _UNKNOWN_SIZE:
                raise AudioError(f"{name}: truncated, the header promises {size} bytes of samples, {present} are there")
            return
        position += 8 + size + size % 2


def _name(source: Path | str | bytes | BinaryIO) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "audio buffer"))


def _reason(error: BaseException) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        return error.error_string.rstrip(".")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
