"""`s2s bench conversation`: Full-Duplex-Bench v1 on pairs of recordings, of any system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2s.cli.bench_live import Json, Out
from s2s.cli.bench_target import Folder, line, share
from s2s.cli.common import console, print_json, user_errors

if TYPE_CHECKING:
    from s2s.evaluation.pairs import Pair


def conversation(
    path: Annotated[Path, typer.Argument(help="Folders with input.wav and output.wav, or a .jsonl of samples.")],
    recogniser: Annotated[str, typer.Option(help="Hears the words not given: base, tiny, or none.")] = "base",
    people: Annotated[Path | None, typer.Option(help="JSON of people's backchannels by sample, for the JSD.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure pauses, turns, interruptions and backchannels by the words of the agent's recordings."""
    with user_errors():
        from s2s.evaluation.full_duplex import report, score
        from s2s.evaluation.pairs import find_pairs, open_sample
        from s2s.evaluation.recognise import Recogniser

        pairs = find_pairs(path, _people(people))
        judge: Any = None
        if any(pair.words is None for pair in pairs) and recogniser != "none":
            judge = Recogniser(recogniser)  # type: ignore[arg-type]
        folder, scores = Folder(out), []
        for number, pair in enumerate(pairs):
            scores.append(score(open_sample(pair, judge)))
            console.print(f"{number + 1}/{len(pairs)} {pair.name}: takeover {scores[-1].takeover}")
        result = report(scores)
        rows = [vars(each) for each in scores]
        whole = folder.finish(result | {"samples": rows}, recogniser=recogniser, inputs_sha256=_checksums(pairs))
        if folder.path is not None:
            _plot(folder.path, result)
    print_json(whole) if as_json else _show(result)


def _people(path: Path | None) -> dict[str, list[float]]:
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): [float(value) for value in spread] for name, spread in values.items()}
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no JSON object of lists of numbers: {error}") from error


def _checksums(pairs: list[Pair]) -> dict[str, str]:
    return {pair.name: pair.checksum for pair in pairs}


def _plot(folder: Path, result: dict[str, Any]) -> None:
    from s2s.evaluation.plots import draw_bars

    rates = {task.replace("_", " "): values["takeover_rate"]["rate"] for task, values in result.items()}
    draw_bars(folder / "takeover.png", rates, "share of samples in which the agent takes the turn", "Takeover rate")


def _show(result: dict[str, Any]) -> None:
    good = {"pause_handling": "low is good", "backchannel": "low is good"}
    for task, values in result.items():
        typer.echo(share(task, values["takeover_rate"]) + f" taken over ({good.get(task, 'high is good')})")
        if "latency_s" in values:
            typer.echo(f"  {line('latency', values['latency_s'], 's')}; {values['early']} began early (counted as 0)")
        if task == "backchannel":
            per_s, divergence = values["per_s"], values["divergence"]
            told = "" if divergence is None else f"; Jensen-Shannon distance from people's {divergence:.3f}"
            typer.echo(f"  {values['backchannels']} backchannels, {per_s:.4f} per second{told}")
