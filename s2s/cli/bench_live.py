"""`s2s bench latency`: live calls over a real socket, at the pace of time, recorded; and the options of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2s.cli.bench_server import ECHO, SCRIPTED, ServerOptions
from s2s.cli.bench_target import (
    Folder,
    Target,
    TargetOptions,
    check_attempts,
    line,
    open_target,
    turns_of,
)
from s2s.cli.common import DEFAULT_MODEL, console, print_json, user_errors

if TYPE_CHECKING:
    from s2s.evaluation.given_calls import GivenCall
    from s2s.gateway.crowd import Crowd

Model = Annotated[str, typer.Option(help="What a server of our own runs: a model as for serve, echo, or scripted.")]
Url = Annotated[str | None, typer.Option(help="A running server to measure instead: ws://host:port.")]
TokenFile = Annotated[Path | None, typer.Option(help="A file with that server's token.")]
Protocol = Annotated[str, typer.Option(help="live (/v1/live/sessions) or realtime (/v1/realtime).")]
Playout = Annotated[int, typer.Option(help="The client's playout buffer.")]
Threads = Annotated[int | None, typer.Option(help="Threads inside a step. Default: measured.")]
Speed = Annotated[str | None, typer.Option(help="exact, traced or int8. Default: the model's.")]
Calls = Annotated[Path | None, typer.Option(help="A .jsonl or folder of recordings with 'speech'. Default: shipped.")]
Out = Annotated[Path | None, typer.Option(help="A folder for the manifest, plots and stereo recordings.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(help="Of everything that is chance.")]


def latency(
    model: Model = DEFAULT_MODEL,
    url: Url = None,
    token_file: TokenFile = None,
    protocol: Protocol = "live",
    calls: Calls = None,
    sessions: Annotated[int, typer.Option(help="Callers at once in the closed loop.")] = 2,
    rounds: Annotated[int, typer.Option(help="Calls of each of them, one after the other.")] = 3,
    rate: Annotated[
        float | None, typer.Option(help="Calls per second of the open loop; 0: none. Default: half of the closed.")
    ] = None,
    gap: Annotated[float, typer.Option(help="Seconds of silence after each turn of the shipped recordings.")] = 3.0,
    playout_ms: Playout = 40,
    threads: Threads = None,
    speed: Speed = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure V2V and wire TTFA: from the end of annotated speech to the agent's first sound at the listener."""
    with user_errors():
        at_least(("--sessions", sessions, 1), ("--rounds", rounds, 1), ("--gap", gap, 0.5))
        given = read_calls(calls, 2, gap)
        mean_s = sum(call.duration_s for call in given) / len(given)
        rate = 0.5 * sessions / mean_s if rate is None else rate
        at_least(("--rate", rate, 0))
        options = target_options(model, url, token_file, protocol, playout_ms, threads, speed, 2 * sessions + 2)
        folder = Folder(out)
        with open_target(options) as target:
            result, facts = _latency(target, given, (sessions, rounds, rate, seed), folder)
        chosen = {"sessions": sessions, "rounds": rounds, "rate": rate, "gap_s": None if calls else gap, "seed": seed}
        whole = folder.finish(result, **facts, options=chosen)
    print_json(whole) if as_json else _show_latency(result)


def _latency(
    target: Target, given: Sequence[GivenCall], plan: tuple[int, int, float, int], folder: Folder
) -> tuple[dict[str, Any], dict[str, Any]]:
    from s2s.evaluation.plots import draw_shares
    from s2s.gateway.crowd import closed_loop, open_loop

    sessions, rounds, rate, seed = plan

    def call(number: int) -> GivenCall:
        return given[number % len(given)]

    works: dict[str, Any] = {
        "cold": lambda: closed_loop(target.call, recitals(given), 1, 1, seed),
        "closed": lambda: closed_loop(target.call, recitals(given), sessions, rounds, seed),
    }
    if rate > 0:
        works["open"] = lambda: open_loop(target.call, recitals(given), rate, sessions * rounds / rate, seed)
    result: dict[str, Any] = {}
    shown: dict[str, list[float]] = {}
    for name, work in works.items():
        console.print(f"{name} ...")
        crowd, busy = target.measured(work)
        check_attempts(crowd.attempts if name == "cold" else [])
        result[name] = _report(crowd, call, target) | busy
        times = [time for each in turns_of(crowd.attempts, call, target, voices=False)[0] for time in each]
        measured = [t.echo_ms if target.expected and target.expected.echo else t.v2v_ms for t in times]
        shown[name] = [value for value in measured if value is not None]
        folder.keep(crowd.attempts, name)
    if rate > 0:
        result["open"]["rate"] = rate
    if folder.path is not None:
        draw_shares(folder.path / "v2v.png", shown, "ms", "End of the caller's speech to the agent's first sound")
    return result, target.facts | {"inputs_sha256": checksums(given)}


def _report(crowd: Crowd, call: Any, target: Target) -> dict[str, Any]:
    from s2s.evaluation.answer_times import report

    whole, lost = turns_of(crowd.attempts, call, target)
    refused = sum(bool(attempt.refused) for attempt in crowd.attempts)
    broken = [attempt.failure for attempt in crowd.attempts if attempt.failure]
    counts = {
        "calls": len(crowd.attempts),
        "refused": refused,
        "broken": len(broken),
        "errors": sorted(set(broken))[:5],
    }
    underruns = sum(attempt.call.underruns for attempt in crowd.attempts if attempt.call)
    return counts | {"underruns": underruns} | report([time for each in whole for time in each], lost)


def _show_latency(result: dict[str, Any]) -> None:
    names = {"v2v_ms": "V2V", "v2v_voice_ms": "V2V (voice)", "wire_ttfa_ms": "wire TTFA", "echo_ms": "echo delay",
             "overhead_ms": "overhead"}  # fmt: skip
    for loop, values in result.items():
        at = f" ({values['rate']:.2f} per second)" if "rate" in values else ""
        typer.echo(
            f"{loop}{at}: {values['calls']} calls, {values['refused']} refused, {values['broken']} broken, "
            f"{values['underruns']} underruns; cores: client {cores(values['client_cores'])}, "
            f"server {cores(values['server_cores'])}; client late by up to {values['client_late_ms']:.1f} ms"
        )
        for key, name in names.items():
            if key in values and not (key.startswith("v2v") and "echo_ms" in values):
                typer.echo(f"  {line(name, values[key])}")
        agree = values["detectors_agree"]
        if agree["n"]:
            typer.echo(f"  the two detectors agree within {agree['within_ms']:.0f} ms in {agree['agree']}/{agree['n']}")


def target_options(
    model: str,
    url: str | None,
    token_file: Path | None,
    protocol: str,
    playout_ms: int,
    threads: int | None,
    speed: str | None,
    max_sessions: int,
    answer_s: float = 1.5,
) -> TargetOptions:
    """Raises ValueError for a model that there is not, before a server is started for it."""
    if url is None and model not in (ECHO, SCRIPTED, "random"):
        from s2s.checkpoint import find

        find(model)
    server = ServerOptions(model, max_sessions, threads, speed, answer_s)
    return TargetOptions(server, url, token_file, protocol, playout_ms)


def read_calls(path: Path | None, num_turns: int | None, gap_s: float) -> list[GivenCall]:
    """The calls of a path as they are, or the shipped recordings, made into calls of some turns."""
    from s2s.evaluation.given_calls import SHIPPED, compose, read_given_calls
    from s2s.gateway.caller import RATE

    recordings = read_given_calls(path or SHIPPED, RATE)
    return recordings if path or num_turns is None else compose(recordings, num_turns, gap_s)


def recitals(given: Sequence[GivenCall], tail_s: float = 1.0) -> Any:
    """The number of a call -> a caller who plays one of these."""
    from s2s.audio.pcm import float_to_int16
    from s2s.gateway.caller import RATE, Recital

    pcm = [float_to_int16(call.caller) for call in given]
    return lambda number: Recital(pcm[number % len(pcm)], round(tail_s * RATE))


def checksums(given: Sequence[GivenCall]) -> list[str]:
    return sorted({each for call in given for each in call.checksums})


def at_least(*given: tuple[str, float, float]) -> None:
    """Raises ValueError for the first (option, value, least) whose value is below."""
    for option, value, least in given:
        if not value >= least:
            raise ValueError(f"{option} is {value}, allowed is {least} and above")


def cores(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
