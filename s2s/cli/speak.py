"""`s2s speak`: a text in, the agent's voice out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2s.cli.common import (
    DEFAULT_MODEL,
    MODEL_HELP,
    check_writable,
    console,
    open_model,
    print_json,
    set_threads,
    speed_or_none,
    user_errors,
)


def speak(
    text: Annotated[str, typer.Argument(help="What the agent says; best in the words of the model's desk.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.wav", help="The agent's voice.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULT_MODEL,
    seed: Annotated[int, typer.Option(help="Same seed, same voice.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="0: the most likely token. Default: the model's.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest. Default: the model's.")] = None,
    speed: Annotated[str | None, typer.Option(help="exact, traced or int8. Default: the model's.")] = None,
    threads: Annotated[int, typer.Option(help="Threads inside one operation.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Say a text: the words are given, when each of them comes is the model's choice."""
    with user_errors():
        from s2s.audio.io import write_wav
        from s2s.evaluation.speak import SpeakConfig
        from s2s.evaluation.speak import speak as say

        config = SpeakConfig(temperature, top_k, seed, speed_or_none(speed))
        check_writable(target)
        set_threads(threads)
        said = say(open_model(model), text, config)
        write_wav(target, said.agent, said.sample_rate)
    result = said.to_json() | {"model": model, "seed": seed, "output": str(target)}
    if as_json:
        print_json(result)
        return
    for word in said.words:
        typer.echo(f"{word.start_s:7.2f} s  {word.text}")
    pushed = f", {said.pushed} of {len(said.words)} words not asked for in time" if said.pushed else ""
    console.print(f"{result['duration_s']:.1f} s of audio, RTFx {result['rtfx']:.1f}{pushed}")
    console.print(f"wrote {target}")
