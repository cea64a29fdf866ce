"""Turns of the caller: where speech starts and stops, from probabilities of speech."""

from __future__ import annotations

from dataclasses import dataclass

from s2s.gateway.voice import HOP_MS, Hop

_HYSTERESIS = 0.15  # speech goes on down to this much below the threshold
_MAX_ONSET_HOPS = 8  # sound before the detector is sure that may belong to the onset


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
    """What one hop means: `speech` in it, a turn that `started_ms` or `stopped_ms` there, and the speech so far.

    `onset_ms`: the sound before the detector was sure is counted in. Times are of the audio received.
    """

    speech: bool
    started_ms: int | None = None
    stopped_ms: int | None = None
    onset_ms: int = 0


class TurnDetector:
    """A turn starts with the first hop of speech, and stops after `silence_duration_ms` without."""

    def __init__(self, detection: TurnDetection):
        self.detection = detection
        self.in_turn = False
        self._last_speech_ms = 0
        self._loud_hops = 0  # in a row

    def push(self, hop: Hop) -> Heard:
        self._loud_hops = min(self._loud_hops + 1, _MAX_ONSET_HOPS) if hop.loud else 0
        threshold = self.detection.threshold - (_HYSTERESIS if self.in_turn else 0.0)
        speech = hop.probability >= max(threshold, 0.01)
        if speech:
            self._last_speech_ms = hop.end_ms
            if not self.in_turn:
                self.in_turn = True
                onset_ms = hop.end_ms - self._loud_hops * HOP_MS
                started_ms = max(0, hop.end_ms - HOP_MS - self.detection.prefix_padding_ms)
                return Heard(True, started_ms=started_ms, onset_ms=onset_ms)
        elif self.in_turn and hop.end_ms - self._last_speech_ms >= self.detection.silence_duration_ms:
            self.in_turn = False
            return Heard(False, stopped_ms=self._last_speech_ms)
        return Heard(speech)
