"""`s2s local`: a server and a call to it in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2s.cli.common import DEFAULT_MODEL, console, user_errors
from s2s.cli.serve import MODEL_HELP
from s2s.cli.talk import DEVICE_HELP, FILE_HELP, OUT_HELP, QUIET_HELP, WAIT_HELP, Terminal


def local(
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULT_MODEL,
    file: Annotated[Path | None, typer.Option(metavar="IN.wav", help=FILE_HELP)] = None,
    out: Annotated[Path | None, typer.Option(metavar="OUT.wav", help=OUT_HELP)] = None,
    port: Annotated[int, typer.Option(help="Of the server, whose page is there too. 0: any free one.")] = 0,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    quiet: Annotated[float, typer.Option(help=QUIET_HELP)] = 3.0,
    wait: Annotated[bool, typer.Option("--wait", help=WAIT_HELP)] = False,
    speed: Annotated[str | None, typer.Option(help="exact, traced or int8. Default: the model's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of what the model samples. Default: chance.")] = None,
) -> None:
    """Talk to a model on this machine: `s2s serve` and `s2s talk` in one.

    Wear a headset: there is no echo cancellation here, and over loudspeakers the agent hears itself.
    """
    with user_errors():
        from s2s.cli.serve import open_engine
        from s2s.engine.engine import EngineConfig
        from s2s.gateway.client import LiveClient
        from s2s.gateway.server import ServerConfig
        from s2s.gateway.serving import create_server
        from s2s.gateway.talking import Heard, TalkConfig, serve_and_call

        terminal = Terminal(file, out, device, TalkConfig(quiet_s=quiet))
        engine = open_engine(model, EngineConfig(max_sessions=2), speed)
        server = create_server(engine, ServerConfig(model, seed=seed), "127.0.0.1", port)

        async def call(url: str) -> Heard:
            console.print(f"s2s: serving {model} on {url.replace('ws', 'http', 1)}")
            async with LiveClient(url, opening=not wait) as client:
                return await terminal.call(client)

        engine.start()
        try:
            heard = serve_and_call(server, call)
        finally:
            engine.stop()
        terminal.finish(heard)
