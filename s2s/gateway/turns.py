"""Turns of the caller: where speech starts and stops, from probabilities of speech."""

from __future__ import annotations

from dataclasses import dataclass

from s2s.gateway.voice import HOP_MS, QUIET_DBFS, Hop

_HYSTERESIS = 0.15  # speech goes on down to this much below the threshold
_MAX_ONSET_HOPS = 8  # sound before the detector is sure that may belong to the onset
_SUDDEN_DB, _SUDDEN_DBFS = 12.0, -45.0  # above the noise of the line, and in all
_NOISE_RISE_DB = 0.3  # per hop: noise that lasts is known after some seconds


@dataclass(frozen=True)
class TurnDetection:
    """When the caller's turns begin and end, and whether they stop the agent.

    patient: a turn over the agent is told when it has taken the floor, and a backchannel never. Many clients stop their
    playback as soon as they hear of a turn.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    interrupt_response: bool = True
    patient: bool = False


@dataclass(frozen=True)
class Heard:
    """What one hop means: `speech` in it, and a turn that `started_ms` or `stopped_ms` there.

    sudden: it is far louder than the line was, which a detector of speech needs some hops more to explain.
    onset_ms: when the sound that goes on in this hop began, as far as is remembered. Times are of the audio received.
    """

    speech: bool
    sudden: bool = False
    onset_ms: int = 0
    started_ms: int | None = None
    stopped_ms: int | None = None


class TurnDetector:
    """A turn starts with the first hop of speech, and stops after `silence_duration_ms` without."""

    def __init__(self, detection: TurnDetection):
        self.detection = detection
        self.in_turn = False
        self._last_speech_ms = 0
        self._loud_hops = 0  # in a row
        self._noise_dbfs = QUIET_DBFS  # of the line, between sounds

    def push(self, hop: Hop) -> Heard:
        self._loud_hops = min(self._loud_hops + 1, _MAX_ONSET_HOPS) if hop.loud else 0
        sudden = hop.level_dbfs > max(_SUDDEN_DBFS, self._noise_dbfs + _SUDDEN_DB)
        self._noise_dbfs = max(QUIET_DBFS, min(hop.level_dbfs, self._noise_dbfs + _NOISE_RISE_DB))
        onset_ms = hop.end_ms - self._loud_hops * HOP_MS
        threshold = self.detection.threshold - (_HYSTERESIS if self.in_turn else 0.0)
        speech = hop.probability >= max(threshold, 0.01)
        if speech:
            self._last_speech_ms = hop.end_ms
            if not self.in_turn:
                self.in_turn = True
                started_ms = max(0, hop.end_ms - HOP_MS - self.detection.prefix_padding_ms)
                return Heard(True, sudden, onset_ms, started_ms=started_ms)
        elif self.in_turn and hop.end_ms - self._last_speech_ms >= self.detection.silence_duration_ms:
            self.in_turn = False
            return Heard(False, sudden, onset_ms, stopped_ms=self._last_speech_ms)
        return Heard(speech, sudden, onset_ms)
