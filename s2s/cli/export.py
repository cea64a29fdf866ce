"""`s2s export`: training checkpoints to a folder (or a hub repository) that `s2s.load` opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2s.cli.common import print_json, user_errors

if TYPE_CHECKING:
    from s2s.checkpoint import Defaults
    from s2s.codec.spectral import SpectralCodec


def export(
    target: Annotated[str, typer.Argument(metavar="OUT", help="A folder; with --push a repository, owner/name.")],
    codec: Annotated[str, typer.Option(help="Training checkpoint of the codec, or anything `s2s.load` opens.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Training checkpoint of the model, or as above; given several times, their mean."),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer.json of the training data.")] = None,
    phrases: Annotated[Path | None, typer.Option(help="A phrases.json: what the agent may write, no more.")] = None,
    decoder: Annotated[
        str, typer.Option(help="own or general: of a --codec with both, which one becomes its own.")
    ] = "own",
    general_decoder: Annotated[
        str | None, typer.Option(help="Where --codec has learned one voice: a training of its decoder on many.")
    ] = None,
    weight_format: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float32",
    temperature: Annotated[float | None, typer.Option(help="What `respond` uses unless told otherwise.")] = None,
    top_k: Annotated[int | None, typer.Option(help="What `respond` uses unless told otherwise.")] = None,
    speed: Annotated[str | None, typer.Option(help="exact, traced or int8: how `respond` runs it.")] = None,
    agent_lead_steps: Annotated[
        int | None, typer.Option(min=0, help="Steps that the agent's words stand before their sound, as encoded.")
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Upload to the hub instead of writing a folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Join a trained codec, model and tokenizer into one checkpoint; averaged weights where training kept them."""
    with user_errors():
        given = {"temperature": temperature, "top_k": top_k, "speed": speed, "agent_lead_steps": agent_lead_steps}
        settings = {name: value for name, value in given.items() if value is not None}
        result = _export(
            target, codec, decoder, model or [], tokenizer, phrases, general_decoder, weight_format, settings, push
        )
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{result['output']}: {result['megabytes']:.1f} MB")


def _export(
    target: str,
    codec: str,
    decoder: str,
    models: list[str],
    tokenizer: Path | None,
    phrases: Path | None,
    general_decoder: str | None,
    weight_format: Any,
    settings: dict[str, Any],
    push: bool,
) -> dict[str, Any]:
    from s2s import checkpoint, trained
    from s2s.phrases import Phrases
    from s2s.text import load_tokenizer
    from s2s.weights import mean_weights

    found = [trained.model_of(model) for model in models]
    if len(found) > 1:
        found[0].load_state_dict(mean_weights([model.state_dict() for model in found]))
    text = None if tokenizer is None else load_tokenizer(tokenizer.read_text(encoding="utf-8"))
    bundle = checkpoint.Bundle(
        trained.codec_of(codec, decoder),
        found[0] if found else None,
        text,
        _defaults(settings),
        target,
        None if phrases is None else Phrases.from_json(phrases.read_text(encoding="utf-8")),
        None if general_decoder is None else _spectral(general_decoder),
    )
    if push:
        return {"output": checkpoint.push(bundle, target, weight_format), "megabytes": 0.0}
    folder = checkpoint.save(bundle, target, weight_format)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return {"output": str(folder), "megabytes": size / 1e6}


def _spectral(source: str) -> SpectralCodec:
    from s2s.codec.spectral import SpectralCodec
    from s2s.trained import codec_of

    codec = codec_of(source)
    if not isinstance(codec, SpectralCodec):
        raise ValueError(f"--general-decoder {source} holds a {type(codec).__name__}, wanted is a SpectralCodec")
    return codec


def _defaults(settings: dict[str, Any]) -> Defaults:
    from s2s.checkpoint import Defaults
    from s2s.config import from_dict
    from s2s.data.align import AGENT_LEAD_STEPS, USER_LAG_STEPS

    return from_dict(Defaults, {"agent_lead_steps": AGENT_LEAD_STEPS, "user_lag_steps": USER_LAG_STEPS} | settings)
