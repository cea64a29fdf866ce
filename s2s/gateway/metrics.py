"""Metrics for Prometheus: what the engine counts, read when asked for, and what callers live through, as it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from s2s.engine.engine import Engine
from s2s.engine.stats import BOUNDS_MS
from s2s.gateway.admission import OpenSessions
from s2s.gateway.base import AgentAudio, AnswerEnded, CallerStarted, CallerStopped, Outgoing

_LATENCY_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)


class Metrics:
    """Of one server; its registry is its own, so that a process may hold several."""

    def __init__(self, engine: Engine, sessions: OpenSessions):
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine, sessions))
        self.calls = Counter("s2s_calls", "Calls taken.", ["protocol"], registry=self.registry)
        self.refused = Counter("s2s_calls_refused", "Calls refused.", ["code"], registry=self.registry)
        self.ended = Counter("s2s_calls_ended", "Calls ended.", ["reason"], registry=self.registry)
        self.answers = Counter("s2s_answers", "Answers of the agent.", ["reason"], registry=self.registry)
        self.first_audio = Histogram(
            "s2s_first_audio_seconds",
            "From the end of a caller's turn (as the detector places it) to the answer's first audio going out.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.stop = Histogram(
            "s2s_stop_seconds",
            "From the caller's first sound over the agent to the answer being stopped; it is turned down long before.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.ready = Gauge("s2s_ready", "Whether a call would be taken.", registry=self.registry)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class CallMetrics:
    """Watches one call for `Metrics`."""

    def __init__(self, metrics: Metrics, sample_rate: int):
        self._metrics, self._rate = metrics, sample_rate
        self._heard = 0
        self._turn_ended_s: float | None = None  # on our clock
        self._turn_began_s = 0.0

    def heard(self, pcm: NDArray[np.int16]) -> None:
        self._heard += len(pcm)

    def said(self, pcm: NDArray[np.int16]) -> None: ...

    def event(self, event: Outgoing) -> None:
        now = time.monotonic()
        if isinstance(event, CallerStarted):
            self._turn_began_s = now
        elif isinstance(event, CallerStopped):
            # The detector waits before it is sure, so the turn ended some time ago.
            self._turn_ended_s = now - max(0.0, self._heard / self._rate - event.at_ms / 1000)
        elif isinstance(event, AgentAudio):
            if event.answering and self._turn_ended_s is not None:
                self._metrics.first_audio.observe(max(0.0, now - self._turn_ended_s))
                self._turn_ended_s = None
        elif isinstance(event, AnswerEnded):
            self._metrics.answers.labels(event.reason).inc()
            if event.reason == "turn_detected":
                self._metrics.stop.observe(now - self._turn_began_s)


class _EngineCollector(Collector):
    def __init__(self, engine: Engine, sessions: OpenSessions):
        self._engine, self._sessions = engine, sessions

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats
        gauges = {
            "s2s_sessions": ("Sessions open.", stats.sessions),
            "s2s_sessions_free": ("Sessions that may be opened.", stats.free),
            "s2s_buffered_seconds": (
                "The most that a session's caller is ahead of the model.",
                self._sessions.buffered_s,
            ),
            "s2s_engine_warm": ("Whether the model is ready.", stats.warm),
            "s2s_engine_threads": ("Threads inside a step.", stats.threads),
            "s2s_engine_last_tick_age_seconds": (
                "Since the last tick.",
                max(0.0, time.monotonic() - stats.last_tick_s) if stats.last_tick_s else 0.0,
            ),
        }
        counters = {
            "s2s_ticks": ("Ticks.", stats.ticks),
            "s2s_deadline_misses": ("Ticks that ended after the next one was due.", stats.deadline_misses),
            "s2s_ticks_left_out": ("Ticks never made up for.", stats.left_out),
            "s2s_sessions_opened": ("Sessions opened.", stats.opened),
            "s2s_session_refusals": ("Sessions refused by the engine.", stats.refusals),
            "s2s_session_failures": ("Sessions that failed.", stats.failures),
            "s2s_underruns": ("Steps whose input had not arrived.", stats.underruns),
        }
        for name, (help_text, value) in gauges.items():
            yield GaugeMetricFamily(name, help_text, value=float(value))
        for name, (help_text, value) in counters.items():
            yield CounterMetricFamily(name, help_text, value=float(value))
        bounds = ["+Inf" if bound == float("inf") else str(bound / 1000) for bound in BOUNDS_MS]
        buckets = list(zip(bounds, map(float, stats.step_ms_counts), strict=True))
        total = stats.step_ms_sum / 1000
        yield HistogramMetricFamily(
            "s2s_step_seconds", "A tick with sessions, from when it was due.", buckets=buckets, sum_value=total
        )
