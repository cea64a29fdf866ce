"""The sound card, with a machine's devices replaced by a thread that asks for audio."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from s2s.audio.card import Loudspeaker, SoundCard, check_devices

RATE = 1000


def packet(value: int, size: int = 20) -> np.ndarray:
    return np.full(size, value, dtype=np.int16)


def test_a_packet_waits_for_the_buffer_and_the_next_one_follows() -> None:
    loudspeaker = Loudspeaker(RATE, buffer_ms=30)
    assert not loudspeaker.pull(10).any()
    loudspeaker.push(packet(1))
    assert not loudspeaker.pull(20).any()
    loudspeaker.push(packet(2))
    assert loudspeaker.pull(60).tolist() == [0] * 10 + [1] * 20 + [2] * 20 + [0] * 10


def test_packets_that_come_together_need_not_wait() -> None:
    loudspeaker = Loudspeaker(RATE, buffer_ms=30)
    for value in (1, 2, 3):
        loudspeaker.push(packet(value))
    assert loudspeaker.pull(60).tolist() == [1] * 20 + [2] * 20 + [3] * 20


def test_nothing_left_is_counted_once_and_waits_for_the_buffer_again() -> None:
    loudspeaker = Loudspeaker(RATE, buffer_ms=10)
    loudspeaker.push(packet(1))
    assert loudspeaker.pull(40).tolist() == [0] * 10 + [1] * 20 + [0] * 10
    loudspeaker.pull(40)
    assert loudspeaker.underruns == 1
    loudspeaker.push(packet(2))
    assert loudspeaker.pull(15).tolist() == [0] * 10 + [2] * 5


def test_what_waits_too_long_is_shortened_in_its_silences() -> None:
    loudspeaker = Loudspeaker(RATE, buffer_ms=10)
    for value in (900, 0, 0, 900, 0, 900):
        loudspeaker.push(packet(value))
    played = loudspeaker.pull(200)
    assert (played == 900).sum() == 60, "sounds are whole"
    assert np.flatnonzero(played)[-1] < 10 + 5 * 20


def test_what_waits_far_too_long_is_dropped_oldest_first() -> None:
    loudspeaker = Loudspeaker(RATE, buffer_ms=0)
    for value in range(1, 81):
        loudspeaker.push(packet(100 + value))
    assert loudspeaker.pull(20).tolist() == [131] * 20, "a second is kept"


class Devices(types.ModuleType):
    """A `sounddevice` whose microphone hears 7 and whose loudspeaker is kept."""

    class PortAudioError(Exception):
        pass

    def __init__(self, works: bool = True):
        super().__init__("sounddevice")
        self.works, self.options = works, dict[str, Any]()
        self.played: list[np.ndarray] = []

    def check_input_settings(self, device: object, **options: Any) -> None:
        if not self.works:
            raise self.PortAudioError("Error querying device -1")

    check_output_settings = check_input_settings

    def Stream(self, **options: Any) -> Any:
        if not self.works:
            raise self.PortAudioError("Error querying device -1")
        self.options = options
        return _Stream(self)


class _Stream:
    def __init__(self, devices: Devices):
        self.devices, self.over = devices, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def start(self) -> None:
        self.thread.start()

    def run(self) -> None:
        size, rate = self.devices.options["blocksize"], self.devices.options["samplerate"]
        while not self.over.wait(size / rate):
            out = np.full((size, 1), -1, dtype=np.int16)
            self.devices.options["callback"](np.full((size, 1), 7, dtype=np.int16), out, size, None, None)
            self.devices.played.append(out[:, 0])

    def close(self) -> None:
        self.over.set()
        self.thread.join()


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Devices]:
    fake = Devices()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def test_both_directions(devices: Devices) -> None:
    enough, packets = threading.Event(), []

    def on_packet(caller: np.ndarray, agent: np.ndarray) -> None:
        packets.append((caller, agent))
        if (agent == 5).sum() == 20:
            enough.set()

    with SoundCard(RATE, 20, on_packet, "1, speakers") as card:
        card.play(packet(5, 200))
        assert enough.wait(20)
    assert devices.options["device"] == (1, "speakers")
    assert all((caller == 7).all() for caller, _ in packets)
    assert np.array_equal(
        np.concatenate([agent for _, agent in packets]), np.concatenate(devices.played)[: 20 * len(packets)]
    )


def test_no_devices(devices: Devices) -> None:
    devices.works = False
    with (
        pytest.raises(OSError, match=r"cannot open microphone and loudspeaker: .*--file"),
        SoundCard(RATE, 20, _ignore),
    ):
        pass
    with pytest.raises(OSError, match=r"cannot open microphone and loudspeaker: .*--file"):
        check_devices(RATE)


def test_devices_that_work(devices: Devices) -> None:
    check_devices(RATE)
    check_devices(RATE, "1,2")


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(OSError, match=r"pip install 's2s\[talk\]'"), SoundCard(RATE, 20, _ignore):
        pass


@pytest.mark.parametrize("name", ["", "a,b,c", "a,"])
def test_devices_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="MICROPHONE,LOUDSPEAKER"):
        SoundCard(RATE, 20, _ignore, name)


def _ignore(caller: np.ndarray, agent: np.ndarray) -> None:
    pass
