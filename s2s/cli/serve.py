"""`s2s serve`: many live calls on one model, over the protocols that clients already speak."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2s.cli.common import DEFAULT_MODEL, DEVICE_HELP, PHRASES_HELP, console, open_model, speed_or_none, user_errors

if TYPE_CHECKING:
    from s2s.engine.engine import Engine, EngineConfig
    from s2s.gateway.server import ServerConfig

ECHO = "echo"
MODEL_HELP = "A name that ships with the package, a folder, a hub id, 'random', or 'echo' for no model."


def serve(
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine unless changed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8080,
    max_sessions: Annotated[int, typer.Option(help="Calls at once; one more is told that the server is full.")] = 8,
    token: Annotated[str | None, typer.Option(help="What clients must present. Other users see it; see next.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="A file that holds the token.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines call without a token.")] = False,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web pages that may call beside our own: https://example.org, or *.")
    ] = None,
    speed: Annotated[str | None, typer.Option(help="exact, traced or int8. Default: the model's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads inside a step. Default: measured at start.")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "cpu",
    phases: Annotated[
        int | None, typer.Option(help="Groups of calls, ticking one between the others. Default: measured at start.")
    ] = None,
    max_call: Annotated[float | None, typer.Option(help="Seconds a call may last. Default: no limit.")] = None,
    max_per_client: Annotated[
        int | None, typer.Option(help="Calls of one token or address. Default: no limit.")
    ] = None,
    max_frame_kib: Annotated[
        int, typer.Option(help="Longest message that is no audio; audio may be 4 times this.")
    ] = 64,
    idle: Annotated[float, typer.Option(help="Seconds without a message until a call is cut.")] = 20.0,
    drain: Annotated[float, typer.Option(help="Seconds that calls may go on after the first SIGTERM.")] = 60.0,
    record: Annotated[
        Path | None, typer.Option(help="Folder for recordings of calls whose callers agreed. Default: none are made.")
    ] = None,
    opening: Annotated[
        bool, typer.Option("--opening/--no-opening", help="The agent speaks first, or waits; clients may choose too.")
    ] = True,
    phrases: Annotated[bool, typer.Option("--phrases/--no-phrases", help=PHRASES_HELP)] = True,
    hang_up: Annotated[
        bool, typer.Option("--hang-up", help="End a call when the agent does; else its client is only told.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="The same for every call. Default: chance.")] = None,
) -> None:
    """Serve calls over the OpenAI Realtime and GPT-Live protocols until SIGTERM."""
    with user_errors():
        from s2s.engine.engine import EngineConfig
        from s2s.gateway.admission import Access
        from s2s.gateway.bridge import BridgeConfig
        from s2s.gateway.limits import Limits
        from s2s.gateway.server import ServerConfig
        from s2s.gateway.serving import check_exposure

        secret = read_token(token, token_file)
        check_exposure(host, secret, insecure)
        limits = Limits(
            max_message=max_frame_kib << 10,
            max_audio_message=max_frame_kib << 12,
            idle_s=idle,
            drain_s=drain,
            max_per_client=max_per_client,
            max_connections=4 * max_sessions + 64,
        )
        hosts = None if secret or insecure else frozenset({host})
        access = Access(secret, frozenset(allow_origin or []), hosts)
        bridge = BridgeConfig(max_call_s=max_call, hang_up=hang_up)
        config = ServerConfig(model, access, limits, bridge, record, seed, opening)
        engine = open_engine(model, EngineConfig(max_sessions, threads=threads, phases=phases), speed, phrases, device)
        _run(engine, config, host, port)


def _run(engine: Engine, config: ServerConfig, host: str, port: int) -> None:
    from s2s.gateway.serving import create_server

    def ready() -> None:
        address, number = server.address
        shown = f"[{address}]" if ":" in address else address
        console.print(
            f"s2s: serving {config.model} on http://{shown}:{number} (/v1/realtime, /v1/live/sessions)", soft_wrap=True
        )

    server = create_server(engine, config, host, port)
    server.on_ready = ready
    engine.start()
    try:
        server.run()
    finally:
        engine.stop()
    if server.failure:
        raise ValueError(server.failure)


def open_engine(
    model: str, config: EngineConfig, speed: str | None, phrases: bool = True, device: str = "cpu"
) -> Engine:
    """An engine for a model by name, not yet started; `phrases` and `device` as in `open_model`."""
    from s2s.engine.engine import Engine
    from s2s.models.step import EchoStep

    if model == ECHO:
        return Engine(EchoStep(), config)
    return Engine.of(open_model(model, phrases, device), config, speed_or_none(speed))


def read_token(token: str | None, path: Path | None) -> str | None:
    """What --token or --token-file gives."""
    if token is not None and path is not None:
        raise ValueError("give --token or --token-file, not both")
    secret = path.read_text(encoding="utf-8").strip() if path is not None else token
    if secret == "":
        raise ValueError("the token is empty")
    return secret
