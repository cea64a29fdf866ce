"""The server: endpoints, and the life of a call from its handshake to its last event."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocketDisconnect

from s2s.engine.engine import Engine, EngineFull
from s2s.engine.session import Session, SessionConfig
from s2s.gateway.admission import RETRY_AFTER_S, Access, Admission, Refusal
from s2s.gateway.base import Configure, Incoming, Transport
from s2s.gateway.bridge import BridgeConfig, Observer, bridge
from s2s.gateway.limits import Limits
from s2s.gateway.live import LiveTransport
from s2s.gateway.metrics import CallMetrics, Metrics
from s2s.gateway.quiet import Seldom
from s2s.gateway.realtime import RealtimeTransport
from s2s.gateway.realtime_events import Dialect
from s2s.gateway.recording import Recording
from s2s.gateway.webpage import add_page
from s2s.gateway.websocket import TRY_AGAIN, Socket

logger = logging.getLogger(__name__)

_STUCK_S = 5.0  # without a tick: the engine's thread hangs
_BEGIN_S = 0.5  # a Realtime client that says nothing for so long leaves it to the server who speaks first


@dataclass(frozen=True)
class ServerConfig:
    """record: folder for the calls whose callers agreed; None: nothing of a call is written. seed: None is chance.

    opening: the agent speaks first where the client does not choose.
    """

    model: str = "s2s"
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    record: Path | None = None
    seed: int | None = None
    opening: bool = True


class Gateway:
    """What the endpoints share."""

    def __init__(self, engine: Engine, config: ServerConfig):
        self.engine, self.config = engine, config
        self.admission = Admission(engine, config.access, config.limits)
        self.metrics = Metrics(engine, self.admission.sessions)
        self._lines = Seldom()

    @property
    def alive(self) -> bool:
        stats = self.engine.stats
        if not stats.warm or self.engine.config.clock != "live":
            return True  # a warm-up takes as long as it takes; a failed one ends the process
        return stats.running and time.monotonic() - stats.last_tick_s < _STUCK_S

    def open(self, opening: bool | None) -> Session:
        """Args: opening: see `SessionConfig`. Raises EngineFull."""
        seed = secrets.randbits(31) if self.config.seed is None else self.config.seed
        return self.admission.open(SessionConfig(seed=seed, opening=opening))

    async def enter(self, websocket: WebSocket) -> str | None:
        """Check who calls; the client's name in counts, or None when the call is refused and told so."""
        protocols, headers = websocket.scope.get("subprotocols", []), websocket.headers
        refusal = self.admission.authorize(headers, protocols)
        client = ""
        if refusal is None:
            address = websocket.client.host if websocket.client else ""
            client = self.admission.client_of(headers, protocols, address)
            refusal = self.admission.admit(client)
        if refusal is None:
            return client
        await self.refuse(websocket, refusal)
        return None

    async def refuse(self, websocket: WebSocket, refusal: Refusal) -> None:
        """By HTTP status, or to a page, whose browser shows it no status, by close code 1013."""
        self.note_refusal(refusal.code)
        busy = refusal.status in (429, 503)
        if busy and "origin" in websocket.headers:
            with contextlib.suppress(WebSocketDisconnect):  # some do not wait for the answer
                await accept(websocket)
                await websocket.close(TRY_AGAIN, refusal.code)
            return
        error = {"type": _error_type(refusal), "code": refusal.code, "message": refusal.message}
        headers = {"Retry-After": str(RETRY_AFTER_S)} if busy else {}
        response = JSONResponse({"error": error}, refusal.status, headers)
        await websocket.send_denial_response(response)

    def note_refusal(self, code: str) -> None:
        """Count a refusal. Callers who are refused come again at once, so that the log has only a line per minute."""
        self.metrics.refused.labels(code).inc()
        if count := self._lines.due(code):
            more = f"more of them within {self._lines.every_s:g} s are only counted (s2s_calls_refused_total)"
            logger.warning("refused %d x %s; %s", count, code, more)

    async def run(self, transport: Transport, session: Session, protocol: str, recording: Recording | None) -> None:
        """One call, from its open session on."""
        observers: list[Observer] = [CallMetrics(self.metrics, session.sample_rate)]
        if recording is not None:
            observers.append(recording)
        self.metrics.calls.labels(protocol).inc()
        reason = "failed"
        try:
            ended = await bridge(transport, session, self.config.bridge, observers)
            reason = "hangup" if ended is None else ended.reason
        finally:
            self.metrics.ended.labels(reason).inc()
            if recording is not None:
                recording.close()
            logger.info("call %s over %s ended: %s", session.id, protocol, reason)

    def recording(self, session: Session) -> Recording | None:
        if self.config.record is None:
            return None
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{session.id}"
        return Recording(self.config.record, name, session.sample_rate)


def create_app(engine: Engine, config: ServerConfig | None = None) -> FastAPI:
    """The ASGI application; its `state.gateway` is the Gateway. The engine is the owner's to start and stop."""
    gateway = Gateway(engine, config or ServerConfig())
    app = FastAPI(title="s2s", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.gateway = gateway
    _add_health(app, gateway)
    _add_realtime(app, gateway)
    _add_live(app, gateway)
    add_page(app, gateway.config.model, needs_token=gateway.config.access.token is not None)
    return app


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        """Whether the process should go on."""
        return PlainTextResponse("ok" if gateway.alive else "the engine hangs", 200 if gateway.alive else 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        """Whether a call would be taken now."""
        stats, draining = gateway.engine.stats, gateway.admission.draining
        free = gateway.admission.free
        ready = stats.warm and free > 0 and not draining and gateway.alive
        state = {"ready": ready, "warm": stats.warm, "free": free, "draining": draining}
        return JSONResponse(state, 200 if ready else 503, {} if ready else {"Retry-After": str(RETRY_AFTER_S)})

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """For Prometheus, with the token where there is one."""
        if (refusal := gateway.admission.authorize(request.headers, [])) is not None:
            return JSONResponse({"error": {"code": refusal.code, "message": refusal.message}}, refusal.status)
        gateway.metrics.ready.set(gateway.admission.free > 0 and not gateway.admission.draining)
        return Response(gateway.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_realtime(app: FastAPI, gateway: Gateway) -> None:
    config, limits = gateway.config, gateway.config.limits

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        """The OpenAI Realtime protocol. Any model name is taken: there is one model.

        The session begins with the client's first event, which may be a `session.update` that says `opening`.
        """
        if (client := await gateway.enter(websocket)) is None:
            return
        try:
            session = gateway.open(opening=None)
        except EngineFull as error:
            await gateway.refuse(websocket, Refusal(503, "server_full", str(error)))
            return
        with gateway.admission.call(client), contextlib.closing(session):
            await accept(websocket)
            dialect: Dialect = "beta" if "realtime=v1" in websocket.headers.get("openai-beta", "") else "ga"
            socket = Socket(websocket, limits)
            max_call_s, opening = config.bridge.max_call_s, config.opening
            transport = _Consenting(socket, session.id, config.model, dialect, max_call_s, opening)
            transport.on_begin = session.begin
            asyncio.get_running_loop().call_later(_BEGIN_S, transport.begin)
            recording = transport.recording = gateway.recording(session)
            with contextlib.suppress(ConnectionError):
                await transport.open()
                await gateway.run(transport, session, "realtime", recording)


def _add_live(app: FastAPI, gateway: Gateway) -> None:
    config, limits = gateway.config, gateway.config.limits

    @app.websocket("/v1/live/sessions")
    async def live(websocket: WebSocket) -> None:
        """The GPT-Live protocol. `?extensions=1` adds events of ours that tell who speaks."""
        if (client := await gateway.enter(websocket)) is None:
            return
        with gateway.admission.call(client):
            await accept(websocket)
            extensions = websocket.query_params.get("extensions") == "1"
            max_call_s, opening = config.bridge.max_call_s, config.opening
            transport = LiveTransport(Socket(websocket, limits), config.model, max_call_s, extensions, opening)
            with contextlib.suppress(ConnectionError):
                if not await transport.start():
                    return
                try:
                    session = gateway.open(transport.opening)
                except EngineFull:
                    gateway.note_refusal("server_full")
                    await transport.refuse_full()
                    return
                with contextlib.closing(session):
                    recording = gateway.recording(session)
                    if recording is not None:
                        recording.consent(transport.consent)
                    await transport.begin(session.id)
                    await gateway.run(transport, session, "live", recording)


class _Consenting(RealtimeTransport):
    """A Realtime call whose recording learns of the caller's consent when `session.update` brings it."""

    recording: Recording | None = None

    async def recv(self) -> Incoming | None:
        incoming = await super().recv()
        if self.recording is not None and isinstance(incoming, Configure):
            self.recording.consent(self.settings.consent)
        return incoming


async def accept(websocket: WebSocket) -> None:
    """Agree on the sub-protocol that clients of these protocols expect, never on one that holds a token."""
    offered: Sequence[str] = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol="realtime" if "realtime" in offered else None)


def _error_type(refusal: Refusal) -> str:
    if refusal.status == 401:
        return "authentication_error"
    return "server_error" if refusal.status == 503 else "invalid_request_error"
