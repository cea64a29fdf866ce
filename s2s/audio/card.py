"""The sound card: a microphone and a loudspeaker on one clock, where the machine has them (package `sounddevice`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_QUIET = 33  # of 32768, -60 dB of full scale: packets this quiet can be left out unheard
_MAX_WAITING_MS = 1000  # beyond this the oldest is dropped whatever it is


class Loudspeaker:
    """Packets in, blocks of any size out. What waits too long is shortened in its silences.

    `push` is for another thread than `pull`.
    """

    def __init__(self, sample_rate: int, buffer_ms: int = 60):
        """Args: buffer_ms: how long a packet waits that finds nothing playing, so that the next may be late."""
        self._buffer = sample_rate * buffer_ms // 1000
        self._limit = sample_rate * _MAX_WAITING_MS // 1000
        self._pushed: SimpleQueue[NDArray[np.int16]] = SimpleQueue()
        self._waiting: deque[NDArray[np.int16]] = deque()
        self._size = 0  # samples that wait
        self._lead = 0  # samples of silence before what waits
        self._dry = True
        self.underruns = 0

    def push(self, pcm: NDArray[np.int16]) -> None:
        self._pushed.put(pcm)

    def pull(self, size: int) -> NDArray[np.int16]:
        """The next samples [size]; silence where nothing has come."""
        self._collect()
        out = np.zeros(size, dtype=np.int16)
        at = min(size, self._lead)
        self._lead -= at
        while at < size and self._waiting:
            head = self._waiting.popleft()
            taken = head[: size - at]
            out[at : at + len(taken)] = taken
            at, self._size = at + len(taken), self._size - len(taken)
            if len(taken) < len(head):
                self._waiting.appendleft(head[len(taken) :])
        if at < size and not self._dry:
            self._dry, self.underruns = True, self.underruns + 1
        return out

    def _collect(self) -> None:
        while True:
            try:
                pcm = self._pushed.get_nowait()
            except Empty:
                return
            if not len(pcm):
                continue
            if self._dry:
                self._dry, self._lead = False, self._buffer
            elif self._size > self._buffer + len(pcm) and np.abs(pcm.astype(np.int32)).max() < _QUIET:
                continue
            else:
                self._lead = min(self._lead, max(0, self._buffer - self._size))  # a burst is a buffer by itself
            self._waiting.append(pcm)
            self._size += len(pcm)
            while self._size > self._limit:
                self._size -= len(self._waiting.popleft())


class SoundCard:
    """Opens the devices for as long as `with` lasts. `on_packet` gets the caller, `play` takes the agent.

    `on_packet(caller [N], agent [N])` is called on the sound card's thread for every packet: what the microphone heard
    and what the loudspeaker was given in the same moment.
    """

    def __init__(
        self,
        sample_rate: int,
        packet_ms: int,
        on_packet: Callable[[NDArray[np.int16], NDArray[np.int16]], None],
        device: str | None = None,
    ):
        """Args: device: a name or number of `sounddevice`; two, microphone then loudspeaker, with a comma between."""
        self._rate, self._packet, self._on_packet = sample_rate, sample_rate * packet_ms // 1000, on_packet
        self._device = _devices(device)
        self._loudspeaker = Loudspeaker(sample_rate)
        self._stream: Any = None

    @property
    def underruns(self) -> int:
        return self._loudspeaker.underruns

    def play(self, pcm: NDArray[np.int16]) -> None:
        self._loudspeaker.push(pcm)

    def __enter__(self) -> SoundCard:
        library = _sounddevice()
        try:
            self._stream = library.Stream(
                samplerate=self._rate,
                blocksize=self._packet,
                device=self._device,
                channels=1,
                dtype="int16",
                latency="low",
                callback=self._exchange,
            )
            self._stream.start()
        except (library.PortAudioError, ValueError) as error:
            raise _unusable(error) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _exchange(self, heard: NDArray[np.int16], played: NDArray[np.int16], frames: int, *_: object) -> None:
        agent = self._loudspeaker.pull(frames)
        played[:, 0] = agent
        self._on_packet(heard[:, 0].copy(), agent)


def check_devices(sample_rate: int, device: str | None = None) -> None:
    """Raises OSError where there is no microphone or no loudspeaker for `SoundCard`; opens nothing."""
    library, names = _sounddevice(), _devices(device)
    microphone, loudspeaker = names if isinstance(names, tuple) else (names, names)
    try:
        library.check_input_settings(microphone, channels=1, dtype="int16", samplerate=sample_rate)
        library.check_output_settings(loudspeaker, channels=1, dtype="int16", samplerate=sample_rate)
    except (library.PortAudioError, ValueError) as error:
        raise _unusable(error) from None


def _unusable(error: Exception) -> OSError:
    return OSError(f"cannot open microphone and loudspeaker: {error}. --file talks without them")


def _sounddevice() -> ModuleType:
    try:
        import sounddevice
    except ImportError:
        raise OSError("microphone and loudspeaker need `pip install 's2s[talk]'`. --file talks without them") from None
    except OSError as error:  # the library under it
        reason = f"{error} (Debian: apt install libportaudio2)"
        raise OSError(f"cannot use microphone and loudspeaker: {reason}. --file talks without them") from None
    module: ModuleType = sounddevice
    return module


def _devices(given: str | None) -> Any:
    if given is None:
        return None
    names = [int(name) if name.strip().isdecimal() else name.strip() for name in given.split(",")]
    if len(names) > 2 or "" in names:
        raise ValueError(f"device {given!r} is not NAME or MICROPHONE,LOUDSPEAKER")
    return names[0] if len(names) == 1 else tuple(names)
