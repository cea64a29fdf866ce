"""`s2s transcribe`: a caller's recording in, the words that the model hears out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2s.cli.common import (
    DEFAULT_MODEL,
    MODEL_HELP,
    console,
    open_model,
    print_json,
    read_channel,
    set_threads,
    speed_or_none,
    user_errors,
)

if TYPE_CHECKING:
    from s2s.evaluation.transcribe import Partial, Transcription


def transcribe(
    source: Annotated[Path, typer.Argument(metavar="IN.wav", help="What the caller says: any format and rate.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULT_MODEL,
    stream: Annotated[bool, typer.Option("--stream", help="Print each word as it comes, with its time.")] = False,
    letters: Annotated[
        bool, typer.Option("--letters", help="Print what the model spells instead of its words.")
    ] = False,
    channel: Annotated[str, typer.Option(help="Of a file with several: left, right, mix or a number from 0.")] = "left",
    speed: Annotated[str | None, typer.Option(help="exact, traced or int8. Default: the model's.")] = None,
    threads: Annotated[int, typer.Option(help="Threads inside one operation.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else; with --stream one per word before.")
    ] = False,
) -> None:
    """Print the caller's words as the model writes them down, frame by frame as in a live call."""
    with user_errors():
        from s2s.evaluation.transcribe import Listener

        wav, rate = read_channel(source, channel)
        set_threads(threads)
        listener = Listener(open_model(model), wav, rate, speed_or_none(speed))
        if letters and not listener.spells:
            raise ValueError(f"--letters: {model} does not spell what it hears")
        for partial in listener:
            if stream:
                _show_word(partial, as_json)
        result = listener.result()
    if as_json:
        print_json(result.to_json() | {"model": model})
    else:
        _show(result, letters, stream)


def _show_word(partial: Partial, as_json: bool) -> None:
    if as_json:
        values = asdict(partial.word) | {"at_s": round(partial.at_s, 3), "again": partial.again}
        print_json({key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()})
        return
    grown = "  (grown)" if partial.again else ""
    typer.echo(f"{partial.word.start_s:7.2f} - {partial.word.end_s:.2f} s  {partial.word.text}{grown}")


def _show(result: Transcription, letters: bool, stream: bool) -> None:
    if letters:
        typer.echo(result.letters)
    elif not stream:
        typer.echo(result.text)
    values = result.to_json()
    console.print(f"{result.duration_s:.1f} s of audio, RTF {values['rtf']:.3f}, RTFx {values['rtfx']:.1f}")
