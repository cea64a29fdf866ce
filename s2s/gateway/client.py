"""The client's end of a call: a WebSocket whose events carry the client's own times, and the GPT-Live protocol on it.

For talking (`s2s talk`) and for measuring. It needs the package `websockets`, nothing of the server.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from s2s.gateway.admission import KEY_PROTOCOL, is_loopback

LIVE_PATH = "/v1/live/sessions"
_MAX_MESSAGE = 4 << 20  # bytes; other servers of these protocols send longer deltas than ours


class CallRefused(ConnectionError):
    """The server does not take this call. `code` says why (`server_full` ...); status 0: no HTTP answer said it."""

    def __init__(self, code: str, message: str, status: int = 0, retry_after_s: float | None = None):
        super().__init__(f"{message} ({code})" if code else message)
        self.code, self.message, self.status, self.retry_after_s = code, message, status, retry_after_s


@dataclass(frozen=True)
class Received:
    """One event of the server, and when it arrived: seconds of `time.monotonic()` on this machine."""

    at_s: float
    event: dict[str, Any]

    @property
    def type(self) -> str:
        kind = self.event.get("type")
        return kind if isinstance(kind, str) else ""

    def pcm(self, key: str = "delta") -> NDArray[np.int16]:
        """The audio of an event, 16-bit samples [N]."""
        return np.frombuffer(base64.b64decode(self.event[key]), dtype="<i2").astype(np.int16)


@dataclass(frozen=True)
class Closed:
    """How the connection ended: a close code of RFC 6455 (1006: without a word) and its reason."""

    at_s: float
    code: int
    reason: str


def endpoint(url: str, path: str = LIVE_PATH, query: str = "") -> str:
    """The address of a call: `host:port`, `http(s)://...` and `ws(s)://...` all do; a path given is kept.

    Raises ValueError for what is no address, and for a password in one: addresses end up in logs.
    """
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    try:
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if scheme not in ("ws", "wss") or not usable:
        raise ValueError(f"{url!r} is no address of a server; ws://host:port is one")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a password does not belong into an address: give the token by itself")
    kept = "&".join(each for each in (parts.query, query) if each)
    return urlunsplit((scheme, parts.netloc, parts.path if parts.path not in ("", "/") else path, kept, ""))


class Connection:
    """One WebSocket to a server of JSON events; `async with` opens and closes it. Its events are iterated once.

    Events are stamped by a task of their own as they come in, so that a slow consumer does not falsify the times.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        token_in: Literal["header", "subprotocol"] = "header",
        headers: dict[str, str] | None = None,
        open_timeout_s: float = 10.0,
    ):
        """Args: url: a whole address, see `endpoint`. token_in: where the token goes; a browser has only the second."""
        self.url, self._token, self._token_in = url, token, token_in
        self._headers, self._open_timeout_s = headers or {}, open_timeout_s
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._arrived: asyncio.Queue[Received | None] = asyncio.Queue()
        self.opened_s = 0.0  # when the handshake was done
        self.closed: Closed | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Raises CallRefused when the server says no, ConnectionError when there is no server to say anything."""
        headers, protocols = dict(self._headers), None
        if self._token is not None and self._token_in == "header":
            headers["Authorization"] = f"Bearer {self._token}"
        elif self._token is not None:
            protocols = [Subprotocol("realtime"), Subprotocol(KEY_PROTOCOL + self._token)]
        try:
            self._socket = await connect(
                self.url,
                additional_headers=headers,
                subprotocols=protocols,
                compression=None,
                open_timeout=self._open_timeout_s,
                close_timeout=2.0,
                max_size=_MAX_MESSAGE,
                proxy=None if is_loopback(urlsplit(self.url).hostname or "") else True,
            )
        except InvalidStatus as error:
            raise _refusal(error) from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            reason = str(error) or type(error).__name__
            raise ConnectionError(f"cannot reach {self.url}: {reason}") from None
        self.opened_s = time.monotonic()
        self._reader = asyncio.create_task(self._read(self._socket))

    async def send(self, event: dict[str, Any]) -> float:
        """Send one event; when it was handed to the socket. Raises ConnectionError once the connection is closed."""
        assert self._socket is not None, "the connection is not open"
        at_s = time.monotonic()
        try:
            await self._socket.send(json.dumps(event, separators=(",", ":")))
        except ConnectionClosed as error:
            raise ConnectionError(f"the connection is closed: {_closed(error)}") from None
        return at_s

    async def __aiter__(self) -> AsyncIterator[Received]:
        """Events until the connection ends; then `closed` says how."""
        while (received := await self.receive()) is not None:
            yield received

    async def receive(self) -> Received | None:
        """The next event, None at the end."""
        received = await self._arrived.get()
        if received is None:
            self._arrived.put_nowait(None)  # for whoever asks again
        return received

    async def close(self) -> None:
        """May be called again."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await self._reader

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for message in socket:
                at_s = time.monotonic()
                try:
                    event = json.loads(message)
                except ValueError:
                    continue  # no event of any of these protocols
                if isinstance(event, dict):
                    self._arrived.put_nowait(Received(at_s, event))
        except ConnectionClosed:
            pass
        finally:
            self.closed = Closed(time.monotonic(), socket.close_code or 1006, socket.close_reason or "")
            self._arrived.put_nowait(None)


class LiveClient(Connection):
    """A call over `/v1/live/sessions`: audio of both sides flows all the time, as 16-bit samples at `rate` Hz.

    Opening it includes `session.start` and waits for `session.started`, whose session is then in `session`. Where the
    server is ours, `extensions` also brings who speaks when (`s2s.caller_started`, `s2s.answer_ended` ...).
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        token_in: Literal["header", "subprotocol"] = "header",
        rate: Literal[16000, 24000] = 24000,
        model: str = "s2s",
        extensions: bool = True,
        store: bool = False,
        open_timeout_s: float = 10.0,
        opening: bool | None = None,
    ):
        """Args: store: the caller agrees to be recorded by the server. opening: whether the agent speaks first; None
        leaves it to the server, and to servers that are not ours.
        """
        address = endpoint(url, LIVE_PATH, "extensions=1" if extensions else "")
        super().__init__(address, token, token_in, open_timeout_s=open_timeout_s)
        self.rate = rate
        audio = {"format": {"type": "audio/pcm", "rate": rate}}
        self._config: dict[str, Any] = {"model": model, "audio": audio, "store": store}
        if opening is not None:
            self._config["opening"] = opening
        self.session: dict[str, Any] = {}
        self.started_s = 0.0  # when `session.started` arrived

    async def open(self) -> None:
        await super().open()
        try:
            async with asyncio.timeout(self._open_timeout_s):
                await self._start()
        except TimeoutError:
            await self.close()
            raise ConnectionError(f"{self.url} does not start a session within {self._open_timeout_s:g} s") from None
        except ConnectionError:
            await self.close()
            raise

    async def _start(self) -> None:
        await self.send({"type": "session.start", "session": self._config})
        refused = ("", "the server closed the connection")
        async for received in self:
            if received.type == "session.started":
                self.session, self.started_s = received.event["session"], received.at_s
                return
            if received.type == "error":
                error = received.event.get("error", {})
                refused = (str(error.get("code", "")), str(error.get("message", "")))
        assert self.closed is not None
        code, message = refused
        raise CallRefused(code or self.closed.reason, message)

    async def append(self, pcm: NDArray[np.int16]) -> float:
        """Send what the caller says, samples [N]; when it was handed to the socket."""
        audio = base64.b64encode(pcm.astype("<i2").tobytes()).decode("ascii")
        return await self.send({"type": "session.input_audio.append", "audio": audio})

    async def mute(self, muted: bool) -> float:
        """Let the model hear silence instead of what is sent, or the caller again."""
        return await self.send({"type": f"session.input_audio.{'mute' if muted else 'unmute'}"})

    async def hang_up(self) -> float:
        """Ask for the end of the session: `session.closed` and the end of the connection follow."""
        return await self.send({"type": "session.close"})


def _refusal(error: InvalidStatus) -> CallRefused:
    """What an HTTP answer says instead of a handshake."""
    response = error.response
    try:
        values = json.loads(response.body or b"{}")["error"]
        code, message = str(values["code"]), str(values["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "", f"the server answers HTTP {response.status_code}"
    try:
        retry_after_s = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        retry_after_s = None
    return CallRefused(code, message, response.status_code, retry_after_s)


def _closed(error: ConnectionClosed) -> str:
    frame = error.rcvd or error.sent
    return "without a word" if frame is None else f"{frame.code} {frame.reason}".strip()
