"""`s2s evaluate`: the codec on speech, the model's replies on callers' recordings, whole experiments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from s2s.cli.common import (
    DECODER_HELP,
    DEFAULT_MODEL,
    MODEL_HELP,
    console,
    open_model,
    print_json,
    read_channel,
    set_threads,
    user_errors,
)

if TYPE_CHECKING:
    from s2s.evaluation.replies import ExpectedReply


class _Experiments(TyperGroup):
    """A group of commands in which `experiment=NAME` is a command too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any(arg.startswith("experiment=") for arg in args) and args[0] not in self.commands:
            args = ["experiment", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


app = typer.Typer(
    cls=_Experiments,
    no_args_is_help=True,
    help="Judge the codec or the replies of a model, or run a whole evaluation: experiment=support_desk key=value ...",
)

Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Threads = Annotated[int, typer.Option(help="Threads inside one operation.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def experiment(
    values: Annotated[
        list[str], typer.Argument(help="experiment=NAME key=value ..., the keys of conf/evaluation/NAME.yaml.")
    ],
    as_json: Json = False,
) -> None:
    """Run a whole evaluation; its folder gets report.json, report.md, MODEL_CARD.md, pictures and recordings."""
    with user_errors():
        from s2s.cli.evaluate_desk import run_evaluation
        from s2s.evaluation.desk_pages import report_section

        result = run_evaluation(values)
    print_json(result) if as_json else typer.echo(report_section(result))


@app.command()
def pages(
    report: Annotated[Path, typer.Argument(help="The report.json of an evaluation.")],
    folder: Annotated[Path, typer.Argument(help="Where report.md and MODEL_CARD.md go.")],
) -> None:
    """Write the pages of an evaluation again from its report."""
    with user_errors():
        from s2s.evaluation.desk_evaluation import write_pages

        try:
            write_pages(json.loads(report.read_text(encoding="utf-8")), folder)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{report} is not the report of an evaluation: {error!r} is missing") from error


@app.command()
def compare(
    one: Annotated[str, typer.Argument(help="Folder of an evaluation of one model; several seeds: A,B,...")],
    other: Annotated[str, typer.Argument(help="Of the other model, on the same calls, in the same order.")],
    as_json: Json = False,
) -> None:
    """Tell two models apart by the replies that only one of them has right, of the same calls."""
    with user_errors():
        from s2s.evaluation.paired import compare as paired

        result = paired(*([Path(folder) for folder in folders.split(",")] for folders in (one, other)))
    print_json(result) if as_json else _show_comparison(result)


def _show_comparison(result: dict[str, Any]) -> None:
    table = Table("condition", "measure", "n", "one", "other", "only one", "only other", "difference", "p")
    for condition, measures in result.items():
        for measure, found in measures.items():
            if found["n"]:
                counts = (str(found[name]) for name in ("n", "one", "other", "only_one", "only_other"))
                change = "{difference:+.1%} ({low:+.1%} to {high:+.1%})".format(**found)
                table.add_row(condition, measure, *counts, change, f"{found['p']:.2f}")
    Console(width=120).print(table)


@app.command()
def codec(
    files: Annotated[list[Path], typer.Argument(help="Recordings of speech.")],
    model: Model = DEFAULT_MODEL,
    decoder: Annotated[str | None, typer.Option(help=DECODER_HELP)] = None,
    words: Annotated[bool, typer.Option("--words", help="Word errors that the codec adds, by a recogniser.")] = False,
    naturalness: Annotated[bool, typer.Option("--naturalness", help="DistillMOS before and after.")] = False,
    signal: Annotated[bool, typer.Option("--signal", help="WB-PESQ and STOI.")] = False,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Report what the round trip through the codec does to recordings, and what it costs."""
    with user_errors():
        from s2s.audio.resample import resample
        from s2s.evaluation.codec import CodecJudges, codec_report
        from s2s.evaluation.naturalness import Naturalness
        from s2s.evaluation.recognise import Recogniser

        set_threads(threads)
        bundle = open_model(model)
        chosen = bundle.codec_with(decoder)
        rate = chosen.spec.sample_rate
        wavs = [resample(*read_channel(file, "mix"), rate) for file in files]
        judges = CodecJudges(
            Recogniser() if words else None, Naturalness() if naturalness else None, pesq=signal, stoi=signal
        )
        name = "own" if chosen is bundle.codec else "general"
        result = {"model": model, "decoder": name} | codec_report(chosen, wavs, rate, judges=judges)
    print_json(result) if as_json else typer.echo(json.dumps(result, indent=2))


@app.command()
def replies(
    cases: Annotated[
        Path,
        typer.Argument(help='A jsonl of {"audio": file beside it, "reply": text, "slots": [text], "label": text}.'),
    ],
    model: Model = DEFAULT_MODEL,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="0: the most likely token. Default: the model's.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for stereo recordings of every conversation.")] = None,
    speed: Annotated[str | None, typer.Option(help="exact, traced or int8. Default: the model's.")] = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Let the model answer recordings and judge by a recogniser whether it said, audibly, what it should."""
    with user_errors():
        set_threads(threads)
        result = {"model": model} | _replies(cases, model, seed, temperature, out, speed)
    print_json(result) if as_json else _show_replies(result)


def _replies(
    cases: Path, model: str, seed: int, temperature: float | None, out: Path | None, speed: Any
) -> dict[str, Any]:
    from s2s.data.schema import Dialogue
    from s2s.evaluation.answer import AnswerConfig, answer
    from s2s.evaluation.recognise import Recogniser
    from s2s.evaluation.replies import score_replies, task_success
    from s2s.evaluation.statistics import summarise
    from s2s.evaluation.timeline import write_stereo

    wanted = _cases(cases)  # its mistakes are told before anything is loaded
    bundle, recogniser = open_model(model), Recogniser()
    scores, rows, steps = [], [], []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(wanted):
        wav, rate = read_channel(cases.parent / case["audio"], "left")
        said = answer(bundle, wav, rate, AnswerConfig(temperature=temperature, seed=seed + number, speed=speed))
        score = score_replies(
            Dialogue(case["audio"], said.caller, said.agent, said.sample_rate),
            [_expected(case, said.caller, said.sample_rate)],
            recogniser,
        )[0]
        scores.append(score)
        steps += said.step_s
        texts = said.to_json()
        rows.append(
            {name: case.get(name, "") for name in ("audio", "reply", "label")}
            | {name: texts[name] for name in ("caller_text", "agent_text")}
            | {"heard": score.heard, "success": score.success, "v2v_ms": score.gap_ms}
        )
        console.print(f"{number + 1}: {'ok ' if score.success else 'BAD'} {case['audio']}: {score.heard}")
        if out is not None:
            write_stereo(out / f"{number:04}.wav", said.caller, said.agent, said.sample_rate)
    return task_success(scores) | {"step_ms": summarise([s * 1000 for s in steps]), "cases": rows}


def _cases(path: Path) -> list[dict[str, Any]]:
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            case = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} line {number} is not JSON: {error}") from error
        if not isinstance(case, dict) or not isinstance(case.get("audio"), str) or "reply" not in case:
            raise ValueError(f"{path} line {number} has no 'audio' and 'reply'")
        cases.append(case)
    if not cases:
        raise ValueError(f"{path} holds no cases")
    return cases


def _expected(case: dict[str, Any], caller: Any, sample_rate: int) -> ExpectedReply:
    """The reply that is due after the caller's last turn."""
    from s2s.evaluation.conversation import caller_turns
    from s2s.evaluation.replies import ExpectedReply

    turns = caller_turns(caller, sample_rate)
    if not turns:
        raise ValueError(f"{case['audio']}: nobody is heard")
    return ExpectedReply(turns[-1], case["reply"], tuple(case.get("slots", ())), case.get("label", ""))


def _show_replies(result: dict[str, Any]) -> None:
    success, gap = result["success"], result["v2v_ms"]
    typer.echo(f"success {success['successes']}/{success['n']} (95 %: {success['low']:.0%} ... {success['high']:.0%})")
    for label, share in result["by_label"].items():
        typer.echo(f"  {label:24} {share['successes']}/{share['n']}")
    typer.echo(f"word errors {result['word_errors']['wer']}; V2V p50 {gap['p50']} ms, p95 {gap['p95']} ms")
