"""Limits: what a client may send, hold and wait for before it is refused or cut."""

from __future__ import annotations

from dataclasses import dataclass, fields

OPTIONAL = ("max_per_client",)


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    max_message: of any message but audio. max_audio_message: of one audio append, and so of everything on the socket
    (the OpenAI protocols allow longer ones; 256 KiB of base64 are 4 s of 24 kHz audio, twice what may be buffered).
    max_history: of the items of a call. request_s: from connecting to a whole HTTP request. start_s: from connecting to
    `session.start`. idle_s: without any message while a microphone is on. idle_manual_s: the same where the client ends
    the turns or is muted. ping_s: between pings, and to the answer; a dead peer is cut within twice this.
    slow_reader_s: for a client to take what is sent. drain_s: for calls to finish after SIGTERM. max_per_client: calls
    of one token or, without tokens, of one address. max_connections: sockets, calls or not.
    """

    max_message: int = 64 << 10
    max_audio_message: int = 256 << 10
    max_history: int = 1 << 20
    request_s: float = 5.0
    start_s: float = 10.0
    idle_s: float = 20.0
    idle_manual_s: float = 300.0
    ping_s: float = 10.0
    slow_reader_s: float = 5.0
    drain_s: float = 60.0
    max_per_client: int | None = None
    max_connections: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in OPTIONAL:
                continue
            if not value > 0:
                raise ValueError(f"{field.name} is {value}, allowed is above 0")
