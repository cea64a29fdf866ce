"""`s2s encode`: dialogues of any supported format to tables of codes and aligned text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from s2s.cli.common import DEFAULT_MODEL, MODEL_HELP, console, open_model, print_json, set_threads, user_errors


def encode(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A moshi-finetune .jsonl, a folder, .parquet files (comma between).")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the shards.")],
    model: Annotated[str, typer.Option(help=f"Codec and tokenizer. {MODEL_HELP}")] = DEFAULT_MODEL,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json to use instead of the model's.")] = None,
    columns: Annotated[str, typer.Option(help="Of a table: user=...,agent=...,id=... or stereo=..., and so on.")] = "",
    channels: Annotated[str, typer.Option(help="Of stereo audio: which channel is whose.")] = "agent=0,user=1",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: passes=2, rows_per_shard=32 ...")] = None,
    augment: Annotated[bool, typer.Option("--augment", help="The caller through rooms, noise, telephones.")] = False,
    threads: Annotated[int, typer.Option(help="Threads inside one operation.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Encode dialogues; a run that was stopped goes on where it was."""
    with user_errors():
        result = _encode(source, target, model, tokenizer, columns, channels, set_ or [], augment, threads)
    if as_json:
        print_json(result)
        return
    typer.echo(
        f"{result['rows']} dialogues, {result['audio_s'] / 3600:.2f} h in {result['shards']} shards in {target}; "
        f"{result['bad_rows']} set aside"
    )


def _encode(
    source: str,
    target: Path,
    model: str,
    tokenizer: Path | None,
    columns: str,
    channels: str,
    settings: list[str],
    augment: bool,
    threads: int,
) -> dict[str, Any]:
    from dataclasses import asdict

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from s2s.config import from_dict, to_dict
    from s2s.data.augment import AugmentConfig
    from s2s.data.dialogues import open_source
    from s2s.data.encode import EncodeConfig, EncodeProgress, Encoder, encode_dialogues
    from s2s.text import load_tokenizer

    fields: dict[str, Any] = _pairs(settings)
    if augment:
        fields["augment"] = to_dict(AugmentConfig())
    config = from_dict(EncodeConfig, fields)
    dialogues = open_source(_source(source, columns, channels))
    bundle = open_model(model)
    text = bundle.tokenizer if tokenizer is None else load_tokenizer(tokenizer.read_text(encoding="utf-8"))
    if text is None:
        raise ValueError(f"{model} has no tokenizer: give one with --tokenizer")
    set_threads(threads)
    encoder = Encoder(bundle.codec, text, config)
    look = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[bad]} bad"))
    with Progress(*look, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=len(dialogues) * config.passes, bad=0)

        def show(done: EncodeProgress) -> None:
            bar.update(task, completed=done.rows, total=done.num_rows, bad=done.bad_rows)

        final = encode_dialogues(dialogues, encoder, target, show)
    return {"source": dialogues.name, "output": str(target)} | asdict(final)


def _source(source: str, columns: str, channels: str) -> dict[str, Any]:
    """What to open, told from the name: the fields of a source with its kind."""
    who = _pairs(part for part in channels.split(",") if part)
    files = source.split(",")
    if all(file.endswith(".parquet") for file in files):
        if not columns:
            raise ValueError("a table needs --columns, such as user=caller_audio,agent=agent_audio,id=id")
        names = {key: str(value) for key, value in _pairs(part for part in columns.split(",") if part).items()}
        return {"kind": "table", "files": files, "columns": names, "channels": who}
    kind = "moshi_finetune" if source.endswith(".jsonl") else "folder"
    return {"kind": kind, "path": source, "channels": who}


def _pairs(settings: Any) -> dict[str, Any]:
    """key=value settings; numbers become numbers, true and false booleans."""
    fields: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"{setting!r} is not key=value")
        fields[key.strip()] = _value(value.strip())
    return fields


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
