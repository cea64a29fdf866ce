"""`s2s bench`: how fast a step is, the latency no machine can go below, and what callers of a server live through."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from s2s.cli.bench_barge_in import barge_in
from s2s.cli.bench_conversation import conversation
from s2s.cli.bench_live import latency
from s2s.cli.bench_load import load
from s2s.cli.common import DEFAULT_MODEL, DEVICE_HELP, MODEL_HELP, open_model, print_json, user_errors

app = typer.Typer(no_args_is_help=True, help="Measure speed, latency, barge-in, capacity and conversation.")
app.command()(latency)
app.command("barge-in")(barge_in)
app.command()(load)
app.command()(conversation)

Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def step(
    model: Model = DEFAULT_MODEL,
    steps: Annotated[int, typer.Option(help="How many steps to measure.")] = 200,
    rows: Annotated[int, typer.Option(help="Conversations in one batch.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Default: the better of 1 and 2, tried at warm-up.")] = None,
    speed: Annotated[str | None, typer.Option(help="exact, traced or int8. Default: the model's.")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "cpu",
    as_json: Json = False,
) -> None:
    """Measure the live step: time per step and part, bytes read, share of the memory bandwidth."""
    from s2s.evaluation.speed import BenchConfig, bench_step

    with user_errors():
        bundle = open_model(model, device=device)
        chosen: Any = speed or bundle.defaults.speed
        result = {"model": model} | bench_step(bundle, BenchConfig(rows, steps, threads, chosen))
    print_json(result) if as_json else _show_step(result)


@app.command("latency-floor")
def latency_floor(model: Model = DEFAULT_MODEL, as_json: Json = False) -> None:
    """Print the algorithmic latency, part by part, and confirm it by changing a token and watching the sound."""
    from s2s.evaluation.floor import latency_floor as measure

    with user_errors():
        result = {"model": model} | measure(open_model(model))
    print_json(result) if as_json else _show_floor(result)


def _show_step(r: dict[str, Any]) -> None:
    step, cpu, num_bytes = r["step_ms"], r["step_cpu_ms"], r["bytes_per_step"]
    say = typer.echo
    say(f"{r['model']}, {r['speed']}, {r['rows']} row(s) on {r['device']}")
    say(f"{r['threads']} thread(s) ({r['threads_why']})")
    say(f"step   {_percentiles(step)}   max {step['max']:.2f}   n {step['n']}")
    say(f"       processor time p50 {cpu['p50']:.2f} ms; frame {r['frame_ms']:.0f} ms, {r['deadline_misses']} missed")
    say(f"RTF {r['rtf']:.3f}   RTFx {r['rtfx']:.1f} at p50, {r['rtfx_p99']:.1f} at p99")
    for name, part in r["parts_ms"].items():
        say(f"  {name:9} {_percentiles(part)}")
    count, bandwidth = r["parameters"], r["read_bandwidth"]
    say(f"parameters: codec {count['codec'] / 1e6:.2f} M, model {count['model'] / 1e6:.2f} M")
    say(
        f"reads {num_bytes['total'] / 1e6:.1f} MB per step, {num_bytes['again'] / 1e6:.1f} MB more from caches: "
        f"{r['achieved_gb_per_s']:.1f} GB/s, {r['bandwidth_share']:.0%} of the {bandwidth['read_gb_per_s']:.1f} GB/s "
        "measured in this run"
    )


def _percentiles(times: dict[str, Any]) -> str:
    return f"p50 {times['p50']:.2f} ms   p95 {times['p95']:.2f}   p99 {times['p99']:.2f}"


def _show_floor(r: dict[str, Any]) -> None:
    parts = r["computed"]
    typer.echo(
        f"algorithmic latency {parts['total_ms']:.1f} ms = frame {parts['frame_ms']:.1f} + delay "
        f"{parts['delay_ms']:.1f} + codec overlap {parts['codec_ms']:.1f}"
    )
    for name, value in r["confirmed"].items():
        typer.echo(f"  changed token, {name.removesuffix('_ms').replace('_', ' ')}: heard after {value:.1f} ms")
    typer.echo("confirmed" if r["agrees"] else "NOT confirmed: the change is heard later than computed")
