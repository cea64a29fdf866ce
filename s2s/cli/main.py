"""The command line: one typer app, one file per command, each imported when it is called."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from s2s import __version__
from s2s.cli.bench import app as bench_app
from s2s.cli.codec import codec
from s2s.cli.encode import encode
from s2s.cli.evaluate import app as evaluate_app
from s2s.cli.export import export
from s2s.cli.local import local
from s2s.cli.respond import respond
from s2s.cli.serve import serve
from s2s.cli.speak import speak
from s2s.cli.talk import talk
from s2s.cli.transcribe import transcribe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(respond)
app.command()(transcribe)
app.command()(speak)
app.command()(serve)
app.command()(talk)
app.command()(local)
app.command()(codec)
app.command()(encode)
app.command()(export)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(bench_app, name="bench")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train(context: typer.Context) -> None:
    """Train a codec or a model: `s2s train experiment=... key=value` (Hydra; `s2s train --help` says more)."""
    from s2s.cli.train import train as run

    run(context.args)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, errors with their traceback.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Speech in, speech out: answer, transcribe, speak, serve calls, run the codec, encode data, train, measure."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, format="s2s: %(levelname)s: %(message)s")
    for noisy in ("matplotlib", "httpx", "httpcore", "huggingface_hub", "filelock", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def main() -> None:
    """Entry point of the `s2s` command."""
    app()


if __name__ == "__main__":
    main()
