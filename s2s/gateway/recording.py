"""Recordings of calls, where the server is told to make them and the caller has agreed: stereo wav and events."""

from __future__ import annotations

import json
import logging
import time
import wave
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s2s.gateway.base import AgentAudio, Outgoing

logger = logging.getLogger(__name__)

_MAX_AHEAD_S = 35  # of the caller's audio before the agent's


class Recording:
    """Left what the caller said, right what the agent said, on the session's clock; events as JSON lines.

    Nothing exists on disk until `consent` says yes; after it says no again nothing more is written.
    """

    def __init__(self, folder: Path, name: str, sample_rate: int):
        self._path, self._rate, self._start_s = folder / name, sample_rate, time.monotonic()
        self._name = name
        self._consent = False
        self._wav: wave.Wave_write | None = None
        self._caller = np.zeros(0, dtype=np.int16)  # heard and not yet written

    def consent(self, given: bool) -> None:
        self._consent = given
        if given and self._wav is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._wav = wave.open(str(self._path.with_suffix(".wav")), "wb")  # noqa: SIM115 open as long as the call
            self._wav.setnchannels(2)
            self._wav.setsampwidth(2)
            self._wav.setframerate(self._rate)
            self._lines = self._path.with_suffix(".jsonl").open("w", encoding="utf-8")
            self._line({"event": "Recording", "session": self._name, "sample_rate": self._rate, "consent": True})

    def heard(self, pcm: NDArray[np.int16]) -> None:
        if self._consent:
            self._caller = np.concatenate([self._caller, pcm])[-_MAX_AHEAD_S * self._rate :]

    def said(self, pcm: NDArray[np.int16]) -> None:
        if not self._consent or self._wav is None:
            return
        caller, self._caller = self._caller[: len(pcm)], self._caller[len(pcm) :]
        both = np.stack([np.pad(caller, (0, len(pcm) - len(caller))), pcm], axis=1)
        self._wav.writeframes(both.astype("<i2").tobytes())

    def event(self, event: Outgoing) -> None:
        if self._consent and self._wav is not None and not isinstance(event, AgentAudio):
            self._line({"event": type(event).__name__, **asdict(event)})

    def close(self) -> None:
        if self._wav is not None:
            self._wav.close()
            self._lines.close()
            self._wav = None
            logger.info("recorded %s", self._path)

    def _line(self, values: dict[str, object]) -> None:
        stamped = {"time_s": round(time.monotonic() - self._start_s, 3), **values}
        self._lines.write(json.dumps(stamped, ensure_ascii=False) + "\n")
