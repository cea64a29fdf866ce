"""`s2s bench load`: how many calls at once a server sustains, and what it does with many times that many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    recitals,
    target_options,
)
from s2s.cli.bench_target import Folder, Target, TargetOptions, check_attempts, line, open_target, turns_of
from s2s.cli.common import DEFAULT_MODEL, console, print_json, user_errors

if TYPE_CHECKING:
    from s2s.evaluation.capacity import Overload
    from s2s.evaluation.given_calls import GivenCall
    from s2s.gateway.caller import Attempt
    from s2s.gateway.crowd import Crowd

DEFINITION = (
    "largest N with p99 step <= 0.8 frame (as the server counts it), no underrun with the playout buffer and no failed "
    "call, random phases; METRICS asks for 600 s, here each N was held for hold_s"
)
_KEPT = 20  # recordings of each part


@dataclass(frozen=True)
class LoadPlan:
    """hold_s: how long each N is held. flood_s: of calls coming at each of `factors` times what N* calls need."""

    hold_s: float
    flood_s: float
    factors: tuple[float, ...]
    limit: int
    sessions: int | None
    seed: int


def load(
    model: Model = DEFAULT_MODEL,
    url: Url = None,
    token_file: TokenFile = None,
    protocol: Protocol = "live",
    calls: Calls = None,
    hold: Annotated[float, typer.Option(help="Seconds that each number of sessions is held; 600 to publish.")] = 20.0,
    limit: Annotated[int, typer.Option(help="The most sessions that the ramp tries.")] = 64,
    sessions: Annotated[int | None, typer.Option(help="N*, where it is known: no ramp.")] = None,
    factors: Annotated[str, typer.Option(help="Offered load as multiples of N*; empty: no overload.")] = "10,50,100",
    flood: Annotated[float, typer.Option(help="Seconds of each overload.")] = 10.0,
    playout_ms: Playout = 40,
    threads: Threads = None,
    speed: Speed = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find N*, the calls a server sustains, then offer it many times as many: answers, refusals, recovery."""
    with user_errors():
        known = 1 if sessions is None else sessions
        at_least(("--hold", hold, 1), ("--limit", limit, 1), ("--flood", flood, 1), ("--sessions", known, 1))
        plan = LoadPlan(hold, flood, _factors(factors), limit, sessions, seed)
        given = read_calls(calls, 2, 1.5)
        options = target_options(model, url, token_file, protocol, playout_ms, threads, speed, sessions or limit)
        folder = Folder(out)
        result, facts = _load(options, plan, given, folder)
        whole = folder.finish(result, **facts, inputs_sha256=checksums(given), options=vars(plan))
    print_json(whole) if as_json else _show(result)


def _factors(text: str) -> tuple[float, ...]:
    try:
        factors = tuple(float(each) for each in text.split(",") if each.strip())
    except ValueError:
        factors = (0.0,)
    if not all(1 <= factor <= 1000 for factor in factors):
        raise ValueError(f"--factors is {text!r}, allowed are numbers from 1 to 1000 with commas between them")
    return factors


def _load(
    options: TargetOptions, plan: LoadPlan, given: Sequence[GivenCall], folder: Folder
) -> tuple[dict[str, Any], dict[str, Any]]:
    result: dict[str, Any] = {"definition": DEFINITION, "hold_s": plan.hold_s}
    best, facts = plan.sessions, options.facts
    if best is None:
        with open_target(options) as target:
            best, result["ramp"] = _ramp(target, plan, given)
            facts = target.facts
    result["n_star"] = best
    result["at_limit"] = plan.sessions is None and best == plan.limit
    if not (best and plan.factors):
        return result, facts
    # With room for N* and no more, a server of ours has to refuse what is too much; another's does as it is set up.
    with open_target(options, best) as target:
        base, p99_ms = _base(target, best, plan, given, folder)
        result["base"] = base
        result["overload"] = [_overload(target, best, factor, plan, given, folder, p99_ms) for factor in plan.factors]
        return result, target.facts


def _ramp(target: Target, plan: LoadPlan, given: Sequence[GivenCall]) -> tuple[int, list[dict[str, Any]]]:
    from s2s.evaluation.capacity import Hold, Ramp, quantile_bound
    from s2s.gateway.crowd import closed_loop
    from s2s.gateway.scrape import scrape

    ramp, steps = Ramp(plan.limit), list[dict[str, Any]]()
    talks = recitals([_as_long_as(call, plan.hold_s) for call in given], 0)
    while (sessions := ramp.next) is not None:
        console.print(f"{sessions} sessions for {plan.hold_s:g} s ...")
        before = scrape(target.call.url, target.call.token)
        crowd, busy = target.measured(lambda n=sessions: closed_loop(target.call, talks, n, 1, plan.seed))  # type: ignore[misc]
        if not steps:
            check_attempts(crowd.attempts)
        after = scrape(target.call.url, target.call.token)
        p99_ms = quantile_bound(before.step_ms, after.step_ms, 0.99) if before and after else None
        failures = sum(attempt.call is None or bool(attempt.failure) for attempt in crowd.attempts)
        underruns = sum(attempt.call.underruns for attempt in crowd.attempts if attempt.call)
        hold = Hold(sessions, failures, underruns, p99_ms, target.frame_ms)
        misses = after.deadline_misses - before.deadline_misses if before and after else None
        ramp.held(not hold.trouble)
        told = None if p99_ms == float("inf") else p99_ms
        steps.append(
            {"sessions": sessions, "trouble": hold.trouble, "failures": failures, "underruns": underruns,
             "p99_step_ms_at_most": told, "deadline_misses": misses} | busy
        )  # fmt: skip
    return ramp.good, steps


def _as_long_as(call: GivenCall, seconds: float) -> GivenCall:
    """The call over and over, for so many seconds."""
    from dataclasses import replace

    import numpy as np

    size, turns = round(seconds * call.sample_rate), []
    times = -(-size // len(call.caller))
    for number in range(times):
        turns += [turn.shifted(number * len(call.caller)) for turn in call.turns]
    room = size - call.sample_rate  # a turn that ends later leaves no time for its answer
    kept = tuple(turn for turn in turns if turn.end <= room)
    return replace(call, caller=np.tile(call.caller, times)[:size], turns=kept)


def _base(
    target: Target, sessions: int, plan: LoadPlan, given: Sequence[GivenCall], folder: Folder
) -> tuple[dict[str, Any], float | None]:
    """N* calls and no others: what answers take then, and their p99."""
    from s2s.evaluation.capacity import fairness
    from s2s.evaluation.statistics import summarise
    from s2s.gateway.crowd import closed_loop

    console.print(f"{sessions} sessions alone ...")
    longer = [_as_long_as(call, plan.hold_s) for call in given]
    crowd, busy = target.measured(lambda: closed_loop(target.call, recitals(longer, 0), sessions, 1, plan.seed))
    check_attempts(crowd.attempts)
    answers, lost, per_call = _answers(crowd.attempts, longer, target)
    folder.keep(crowd.attempts, "alone", _KEPT)
    summary = summarise(answers, lost)
    return {"answer_ms": summary, "fairness": fairness(per_call)} | busy, summary["p99"]


def _answers(
    attempts: Sequence[Attempt], given: Sequence[GivenCall], target: Target
) -> tuple[list[float], int, list[float]]:
    """Answer times in ms (of an echo: its delay), turns without one, and the mean of each call."""
    taken = [attempt for attempt in attempts if not attempt.refused]
    whole, lost = turns_of(taken, lambda number: given[number % len(given)], target, voices=False)
    echo = target.expected is not None and target.expected.echo
    answers, per_call = list[float](), list[float]()
    for times in whole:
        found = [value for t in times if (value := t.echo_ms if echo else t.v2v_ms) is not None]
        lost += len(times) - len(found)
        answers += found
        if found:
            per_call.append(sum(found) / len(found))
    return answers, lost, per_call


def _overload(
    target: Target,
    sessions: int,
    factor: float,
    plan: LoadPlan,
    given: Sequence[GivenCall],
    folder: Folder,
    p99_ms: float | None,
) -> dict[str, Any]:
    from s2s.evaluation.plots import draw_shares
    from s2s.gateway.crowd import open_loop, until_admitted

    talks = recitals(given)
    mean_s = sum(call.duration_s for call in given) / len(given) + 1
    rate = factor * sessions / mean_s
    console.print(f"{factor:g} times {sessions} sessions: {rate:.1f} calls per second for {plan.flood_s:g} s ...")
    crowd, busy = target.measured(lambda: open_loop(target.call, talks, rate, plan.flood_s, plan.seed))
    waited_s, last = until_admitted(target.call, lambda: talks(0))
    found = _found(crowd, factor, given, target, waited_s if last.call is not None else None)
    name = f"overload-{factor:g}"
    folder.keep([attempt for attempt in crowd.attempts if attempt.call], name, _KEPT)
    if folder.path is not None and found.refusals_ms:
        title = f"From calling to being refused, {factor:g} times N*"
        draw_shares(folder.path / f"{name}.png", {"refusals": found.refusals_ms}, "ms", title, limit=100)
    return {"calls_per_s": rate, "call_s": mean_s} | found.report(p99_ms) | busy


def _found(
    crowd: Crowd, factor: float, given: Sequence[GivenCall], target: Target, recovery_s: float | None
) -> Overload:
    from s2s.evaluation.capacity import Overload

    answers, lost, per_call = _answers(crowd.attempts, given, target)
    refusals = [attempt.answer_ms for attempt in crowd.attempts if attempt.refused]
    broken = sum(bool(attempt.failure) for attempt in crowd.attempts)
    offered = len(crowd.attempts)
    return Overload(factor, offered, answers, lost, per_call, refusals, broken, recovery_s, crowd.client_cores)


def _show(result: dict[str, Any]) -> None:
    for step in result.get("ramp", []):
        bound = step["p99_step_ms_at_most"]
        typer.echo(
            f"{step['sessions']:4} sessions: {step['trouble'] or 'sustained'}; p99 step at most "
            f"{'?' if bound is None else f'{bound:g}'} ms, {step['underruns']} underruns; cores: client "
            f"{cores(step['client_cores'])}, server {cores(step['server_cores'])}"
        )
    more = " (the limit; there may be room for more)" if result["at_limit"] else ""
    typer.echo(f"N* = {result['n_star']}{more}, each N held for {result['hold_s']:g} s")
    if "base" in result:
        typer.echo(line("answer at N*", result["base"]["answer_ms"]))
    for each in result.get("overload", []):
        ratio, jain = each["p99_to_base"], each["fairness"]["jain"]
        recovery = "none" if each["recovery_s"] is None else f"{each['recovery_s'] * 1000:.0f} ms"
        typer.echo(
            f"{each['factor']:g} x N*: {each['offered']} calls, {each['admitted']} admitted, {each['refused']} refused"
            f", {each['broken']} broken; p99 {'-' if ratio is None else f'{ratio:.2f}'} of that at N*; fairness "
            f"{'-' if jain is None else f'{jain:.3f}'}; recovery {recovery}; client {cores(each['client_cores'])} cores"
        )
        typer.echo(f"  {line('answer', each['answer_ms'])}")
        typer.echo(f"  {line('refusal', each['refusal_ms'])}")
        broken = [name for name, holds in each["holds"].items() if not holds]
        typer.echo(f"  {'all limits hold' if not broken else 'beyond their limits: ' + ', '.join(broken)}")
