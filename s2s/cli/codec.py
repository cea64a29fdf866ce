"""`s2s codec`: a recording through the codec and back, and what the codec costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from s2s.cli.common import (
    DECODER_HELP,
    DEFAULT_MODEL,
    MODEL_HELP,
    check_writable,
    open_model,
    print_json,
    read_channel,
    set_threads,
    user_errors,
)


def codec(
    source: Annotated[Path | None, typer.Argument(metavar="IN", help="Any format, any sample rate.")] = None,
    target: Annotated[Path | None, typer.Argument(metavar="OUT.wav", help="What is left of it.")] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULT_MODEL,
    decoder: Annotated[str | None, typer.Option(help=DECODER_HELP)] = None,
    info: Annotated[bool, typer.Option("--info", help="Print bits, products, delay and speed of the codec.")] = False,
    channel: Annotated[str, typer.Option(help="Of a file with several: left, right, mix or a number from 0.")] = "left",
    threads: Annotated[int, typer.Option(help="Threads inside one operation.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Send a recording through the codec and back (IN OUT), or describe the codec (--info), or both."""
    with user_errors():
        if not info and (source is None or target is None):
            raise ValueError("give IN and OUT, or --info")
        if source is not None and target is None:
            raise ValueError("give OUT too, the place for what is left of IN")
        result = _codec(source, target, model, decoder, info, channel, threads)
    print_json(result) if as_json else _show(result)


def _codec(
    source: Path | None, target: Path | None, model: str, decoder: str | None, info: bool, channel: str, threads: int
) -> dict[str, Any]:
    import numpy as np

    from s2s.audio.io import write_wav
    from s2s.evaluation.codec import codec_cost, round_trip

    wav, rate = read_channel(source, channel) if source is not None else (np.zeros(1, np.float32), 24000)
    if target is not None:
        check_writable(target)
    set_threads(threads)
    bundle = open_model(model)
    chosen = bundle.codec_with(decoder)
    spec = chosen.spec
    result: dict[str, Any] = {
        "model": model,
        "decoder": "own" if chosen is bundle.codec else "general",
        "bits_per_second": spec.bits_per_second,
        "sample_rate": spec.sample_rate,
        "frame_ms": float(1000 / spec.frame_rate),
        "num_codebooks": spec.num_codebooks,
        "codebook_size": spec.codebook_size,
        "delay_ms": chosen.synthesis_delay * 1000 / spec.sample_rate,
    }
    if source is not None and target is not None:
        trip = round_trip(chosen, wav, rate)
        write_wav(target, trip.after, spec.sample_rate)
        frames = trip.codes.shape[1]
        result |= {"frames": frames, "duration_s": len(trip.after) / spec.sample_rate, "output": str(target)}
    if info:
        noise = 0.1 * np.random.default_rng(0).standard_normal(4 * spec.sample_rate).astype(np.float32)
        cost = codec_cost(chosen, noise, threads)
        result |= {"parameters": sum(p.numel() for p in chosen.parameters()), **cost}
    return result


def _show(r: dict[str, Any]) -> None:
    typer.echo(
        f"{r['model']}: {r['bits_per_second']:.0f} bit/s ({r['num_codebooks']} codebooks of {r['codebook_size']} every "
        f"{r['frame_ms']:.0f} ms), {r['sample_rate']} Hz, delay {r['delay_ms']:.1f} ms, {r['decoder']} decoder"
    )
    if "parameters" in r:
        typer.echo(f"parameters: {r['parameters'] / 1e6:.2f} M; {r['threads']} thread(s)")
        for name in ("encode", "decode"):
            part = r[name]
            typer.echo(
                f"{name}: {r[f'{name}_macs_per_s'] / 1e9:.3f} GMAC per second of audio; RTFx "
                f"{part['rtfx_streaming']:.0f} frame by frame (p50 {part['frame_ms']['p50']:.2f} ms, p99 "
                f"{part['frame_ms']['p99']:.2f} ms), {part['rtfx_whole']:.0f} in one go"
            )
    if "output" in r:
        typer.echo(f"{r['frames']} frames, {r['duration_s']:.2f} s -> {r['output']}")
