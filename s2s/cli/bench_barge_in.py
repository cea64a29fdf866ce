"""`s2s bench barge-in`: callers who speak over the agent, and what stops it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2s.cli.bench_live import (
    Calls,
    Json,
    Model,
    Out,
    Playout,
    Protocol,
    Seed,
    Speed,
    Threads,
    TokenFile,
    Url,
    at_least,
    checksums,
    cores,
    read_calls,
    target_options,
)
from s2s.cli.bench_server import SCRIPTED
from s2s.cli.bench_target import Folder, Target, check_attempts, line, open_target, share, tracks
from s2s.cli.common import console, print_json, user_errors

if TYPE_CHECKING:
    from s2s.evaluation.barge_in import Clip
    from s2s.evaluation.given_calls import GivenCall


def barge_in(
    model: Model = SCRIPTED,
    url: Url = None,
    token_file: TokenFile = None,
    protocol: Protocol = "live",
    events: Annotated[int, typer.Option(help="Overlaps in all: half interruptions, half what must not stop.")] = 240,
    sessions: Annotated[int, typer.Option(help="Callers at once.")] = 16,
    calls: Calls = None,
    playout_ms: Playout = 40,
    threads: Threads = None,
    speed: Speed = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure how fast the agent stops when it is interrupted, and whether anything else stops it."""
    with user_errors():
        at_least(("--sessions", sessions, 1), ("--events", events, 1))
        recordings = read_calls(calls, None, 0)
        sessions = min(sessions, events)
        options = target_options(model, url, token_file, protocol, playout_ms, threads, speed, sessions + 1, 5.0)
        folder = Folder(out)
        with open_target(options) as target:
            result = _barge_in(target, recordings, (events, sessions, seed), folder)
        facts = target.facts | {"inputs_sha256": checksums(recordings)}
        whole = folder.finish(result, **facts, options={"events": events, "sessions": sessions, "seed": seed})
    print_json(whole) if as_json else _show_barge_in(result)


def _barge_in(
    target: Target, recordings: Sequence[GivenCall], plan: tuple[int, int, int], folder: Folder
) -> dict[str, Any]:
    from s2s.evaluation.barge_in import KINDS, BargeInTalk, default_clips, outcomes, report
    from s2s.evaluation.plots import draw_shares
    from s2s.gateway.caller import RATE
    from s2s.gateway.crowd import closed_loop

    events, sessions, seed = plan
    chosen = _deal(default_clips(recordings, seed), events, sessions, seed)
    talks = {
        number: BargeInTalk(recordings[number % len(recordings)].caller, clips, RATE, seed + number)
        for number, clips in enumerate(chosen)
    }
    console.print(f"{events} overlaps in {sessions} calls ...")
    crowd, busy = target.measured(lambda: closed_loop(target.call, talks.__getitem__, sessions, 1, seed))
    check_attempts(crowd.attempts)
    found, unanswered = [], 0
    for attempt in crowd.attempts:
        if attempt.call is not None:  # what happened before a call broke off did happen
            found += outcomes(tracks(attempt.call)[1], RATE, talks[attempt.number].overlaps)
            unanswered += talks[attempt.number].unanswered
    broken = [attempt.failure or attempt.refused for attempt in crowd.attempts if attempt.failure or attempt.refused]
    lost = events - len(found) - unanswered
    result = report(found, lost) | {"unanswered": unanswered, "broken": len(broken), "errors": sorted(set(broken))[:5]}
    folder.keep(crowd.attempts, "call")
    if folder.path is not None:
        stops: dict[str, list[float]] = {
            kind: [o.stop_ms for o in found if o.kind == kind and o.stop_ms is not None] for kind in KINDS
        }
        title = "First sample over the agent to the agent's last audible one"
        draw_shares(folder.path / "stop.png", stops, "ms", title, limit=150)
    return result | busy


def _deal(clips: Sequence[Clip], events: int, sessions: int, seed: int) -> list[list[Clip]]:
    """Kinds in their mix, the clips of a kind in turn, in an order of chance, dealt to the calls."""
    import itertools
    import random

    from s2s.evaluation.barge_in import KINDS, MIX

    of = {kind: itertools.cycle([clip for clip in clips if clip.kind == kind]) for kind in KINDS}
    chosen = [next(of[MIX[number % len(MIX)]]) for number in range(events)]
    random.Random(seed).shuffle(chosen)
    return [chosen[first::sessions] for first in range(sessions)]


def _show_barge_in(result: dict[str, Any]) -> None:
    typer.echo(
        f"{result['events']} overlaps ({result['lost']} lost, {result['unanswered']} without an answer to speak over, "
        f"{result['not_over_speech']} where the agent had just stopped), {result['broken']} calls broken"
    )
    typer.echo(line("stop latency", result["stop_ms"]))
    typer.echo(share("yield within 2 s", result["yield"]))
    for kind, values in result["selectivity"].items():
        typer.echo(share(f"goes on: {kind}", values))
    typer.echo(
        f"cores: client {cores(result['client_cores'])}, server {cores(result['server_cores'])}; "
        f"client late by up to {result['client_late_ms']:.1f} ms"
    )
