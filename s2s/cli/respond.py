"""`s2s respond`: a caller's recording in, the agent's answer out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2s.cli.common import (
    DEFAULT_MODEL,
    MODEL_HELP,
    PHRASES_HELP,
    check_writable,
    console,
    open_model,
    print_json,
    read_channel,
    set_threads,
    speed_or_none,
    user_errors,
)

if TYPE_CHECKING:
    from s2s.evaluation.answer import AnswerConfig


def respond(
    source: Annotated[Path, typer.Argument(metavar="IN.wav", help="What the caller says: any format and rate.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.wav", help="What the agent says, on the same timeline.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULT_MODEL,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="0: the most likely token. Default: the model's.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest. Default: the model's.")] = None,
    channel: Annotated[str, typer.Option(help="Of a file with several: left, right, mix or a number from 0.")] = "left",
    tail: Annotated[float, typer.Option(help="Seconds to wait for the answer at most after the recording.")] = 12.0,
    opening: Annotated[bool, typer.Option("--opening", help="The agent speaks first.")] = False,
    stereo: Annotated[bool, typer.Option("--stereo", help="Write the caller left and the agent right.")] = False,
    timeline: Annotated[Path | None, typer.Option(help="Also draw both tracks and words (png, svg, pdf).")] = None,
    phrases: Annotated[bool, typer.Option("--phrases/--no-phrases", help=PHRASES_HELP)] = True,
    speed: Annotated[str | None, typer.Option(help="exact, traced or int8. Default: the model's.")] = None,
    threads: Annotated[int, typer.Option(help="Threads inside one operation.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Let the model hear a recording and write what it answers."""
    with user_errors():
        from s2s.evaluation.answer import AnswerConfig

        config = AnswerConfig(tail, temperature, top_k, seed, speed_or_none(speed), opening)
        result = _respond(source, target, model, phrases, channel, stereo, timeline, threads, config)
    print_json(result) if as_json else _show(result)


def _respond(
    source: Path,
    target: Path,
    model: str,
    phrases: bool,
    channel: str,
    stereo: bool,
    timeline: Path | None,
    threads: int,
    config: AnswerConfig,
) -> dict[str, Any]:
    from s2s.audio.io import write_wav
    from s2s.evaluation.answer import answer
    from s2s.evaluation.timeline import draw_timeline, write_stereo

    wav, rate = read_channel(source, channel)
    for path in (target, *([timeline] if timeline else [])):
        check_writable(path)
    set_threads(threads)
    bundle = open_model(model, phrases)
    said = answer(bundle, wav, rate, config)
    if stereo:
        write_stereo(target, said.caller, said.agent, said.sample_rate)
    else:
        write_wav(target, said.agent, said.sample_rate)
    if timeline:
        draw_timeline(timeline, (said.caller, said.agent), said.sample_rate, (said.caller_words, said.agent_words))
    used = {
        "model": model,
        "seed": config.seed,
        "temperature": bundle.defaults.temperature if config.temperature is None else config.temperature,
        "speed": config.speed or bundle.defaults.speed,
        "threads": threads,
        "output": str(target),
    }
    return said.to_json() | used


def _show(result: dict[str, Any]) -> None:
    for side in ("caller", "agent"):
        words = result[f"{side}_words"]
        span = f"{words[0]['start_s']:.2f} ... {words[-1]['end_s']:.2f} s" if words else "nothing"
        typer.echo(f"{side + ':':8}{result[f'{side}_text']}  [{span}]")
    first, gap = result["first_audio_ms"], result["v2v_ms"]
    answered = "no answer" if gap is None else f"answer {gap:.0f} ms after the caller's last sound (V2V)"
    typer.echo(answered if first is None else f"{answered}; first agent sound at {first:.0f} ms of the recording")
    step = result["step_ms"]
    typer.echo(
        f"step {step['p50']:.1f} ms p50, {step['p99']:.1f} ms p99 of a {result['frame_ms']:.0f} ms frame; "
        f"RTF {result['rtf']:.3f}, RTFx {result['rtfx']:.1f}"
    )
    console.print(f"wrote {result['output']}")
