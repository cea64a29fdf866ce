"""What live benchmarks share: the server they measure, ours or any other, and what they leave behind in a folder."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2s.cli.bench_server import ECHO, SCRIPTED, RunningServer, ServerOptions, own_server

if TYPE_CHECKING:
    from s2s.evaluation.answer_times import AnswerTime, Expected
    from s2s.evaluation.given_calls import GivenCall
    from s2s.gateway.caller import Attempt, CallConfig, RecordedCall
    from s2s.gateway.crowd import Crowd


@dataclass(frozen=True)
class TargetOptions:
    """url: of a running server; None: a server of our own with `server`. wire: live or realtime."""

    server: ServerOptions
    url: str | None = None
    token_file: Path | None = None
    wire: Any = "live"
    playout_ms: int = 40

    @property
    def facts(self) -> dict[str, Any]:
        network = "127.0.0.1, another process" if self.url is None else "as the server's address says"
        return {"url": self.url, "protocol": self.wire, "playout_ms": self.playout_ms, "network": network}


@dataclass(frozen=True)
class Target:
    """Whom the callers call. server: None for one that we did not start."""

    call: CallConfig
    server: RunningServer | None
    options: TargetOptions

    @property
    def facts(self) -> dict[str, Any]:
        return self.options.facts | {"server": self.server.facts if self.server else None}

    @property
    def frame_ms(self) -> float | None:
        return self.server.facts["frame_ms"] if self.server else None

    @property
    def expected(self) -> Expected | None:
        """What is known about the agent of a server of our own."""
        from s2s.evaluation.answer_times import Expected
        from s2s.gateway.caller import RATE

        model, options = self.options.server.model, self.options.server
        if self.server is None or model not in (ECHO, SCRIPTED):
            return None
        delay_s = self.server.facts["frame_ms"] / 1000 if model == ECHO else options.delay_s
        return Expected(round(delay_s * RATE), model == ECHO)

    def measured(self, work: Callable[[], Crowd]) -> tuple[Crowd, dict[str, Any]]:
        """Let a crowd call; it, and how busy both ends were."""
        before = self.server.cpu_s() if self.server else None
        crowd = work()
        after = self.server.cpu_s() if self.server else None
        cores = None if before is None or after is None else (after - before) / crowd.wall_s
        late = max((a.call.late_ms for a in crowd.attempts if a.call), default=0.0)
        return crowd, {"client_cores": crowd.client_cores, "server_cores": cores, "client_late_ms": late}


@contextlib.contextmanager
def open_target(options: TargetOptions, max_sessions: int | None = None) -> Iterator[Target]:
    """The server to measure; one of our own ends with the block."""
    from s2s.gateway.caller import CallConfig

    if options.playout_ms < 0:
        raise ValueError(f"--playout-ms is {options.playout_ms}, allowed is 0 and above")
    if options.url is not None:
        token = options.token_file.read_text(encoding="utf-8").strip() if options.token_file else None
        config = CallConfig(options.url, token, options.wire, options.playout_ms)
        yield Target(config, None, options)
        return
    CallConfig("ws://127.0.0.1", None, options.wire, options.playout_ms)  # what is wrong is said before a server starts
    wanted = options.server if max_sessions is None else replace(options.server, max_sessions=max_sessions)
    with own_server(wanted) as server:
        yield Target(CallConfig(server.url, None, options.wire, options.playout_ms), server, options)


def check_attempts(attempts: Sequence[Attempt]) -> None:
    """Raises ValueError where no call at all was taken: then there is nothing to measure, only a reason."""
    if attempts and all(attempt.call is None for attempt in attempts):
        first = attempts[0]
        raise ValueError(first.error or f"the server took no call: {first.refused}")


def turns_of(
    attempts: Sequence[Attempt], calls: Callable[[int], GivenCall], target: Target, voices: bool = True
) -> tuple[list[list[AnswerTime]], int]:
    """The answer times of each whole call, and how many turns were lost in the others; `calls`: by its number."""
    from s2s.evaluation.answer_times import Heard, answer_times
    from s2s.evaluation.audibility import Span
    from s2s.gateway.voice_spans import voice_spans

    def detect(wav: Any, rate: int) -> list[Span]:
        return [Span(start, end) for start, end in voice_spans(wav, rate)]

    whole, lost = [], 0
    for attempt in attempts:
        turns = calls(attempt.number).turns
        if attempt.call is None or attempt.failure:
            lost += len(turns)
            continue
        caller, agent = tracks(attempt.call)
        heard = Heard(caller, agent, attempt.call.sample_rate, turns, attempt.call.arrivals)
        whole.append(answer_times(heard, detect if voices else None, target.expected))
    return whole, lost


def tracks(call: RecordedCall) -> tuple[Any, Any]:
    """Caller and agent as float [N]."""
    from s2s.audio.pcm import int16_to_float

    return int16_to_float(call.caller), int16_to_float(call.agent)


class Folder:
    """Where a benchmark leaves its manifest, plots and recordings; nowhere without a path."""

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)

    def keep(self, attempts: Sequence[Attempt], name: str, limit: int = 1000) -> None:
        """Write the recordings of up to `limit` calls, caller left and agent right."""
        from s2s.evaluation.timeline import write_stereo

        for number, attempt in enumerate(attempts if self.path else ()):
            if attempt.call is not None and number < limit:
                assert self.path is not None
                write_stereo(self.path / f"{name}-{number:04}.wav", *tracks(attempt.call), attempt.call.sample_rate)

    def finish(self, result: dict[str, Any], **facts: Any) -> dict[str, Any]:
        """Write manifest.json; the result with its manifest."""
        from s2s.evaluation.manifest import manifest

        whole = {"manifest": manifest(shlex.join(["s2s", *sys.argv[1:]]), **facts), "result": result}
        if self.path is not None:
            text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
            (self.path / "manifest.json").write_text(text + "\n", encoding="utf-8")
        return whole


def line(name: str, summary: dict[str, Any], unit: str = "ms") -> str:
    """One row of a table: percentiles, n and failures."""

    def show(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}" if unit == "ms" else f"{value:.2f}"

    values = "  ".join(f"{key} {show(summary[key]):>7}" for key in ("p50", "p90", "p95", "p99", "max"))
    return f"{name:16} {values} {unit}  n {summary['n']}, failures {summary['failures']}"


def share(name: str, values: dict[str, Any]) -> str:
    """One row of a table: a proportion with its interval."""
    rate = "-" if values["rate"] is None else f"{values['rate']:.0%}"
    return f"{name:16} {values['successes']}/{values['n']} = {rate} (95 %: {values['low']:.0%} to {values['high']:.0%})"
