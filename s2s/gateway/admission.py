"""Admission: who may call, and how many at once. Refusals are answered before anything is spent on them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from s2s.engine.engine import Engine, EngineFull
from s2s.engine.session import Session, SessionConfig
from s2s.gateway.limits import Limits

KEY_PROTOCOL = "openai-insecure-api-key."
RETRY_AFTER_S = 2


@dataclass(frozen=True)
class Refusal:
    """Why a request is not served, as an HTTP answer or, where no handshake can say it, a close code."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class Access:
    """token: what clients must know; None: nobody needs one. origins: of web pages that may call beside our own.

    hosts: names under which browsers may reach a server without a token (against DNS rebinding); None: any.
    """

    token: str | None = field(default=None, repr=False)
    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] | None = None


def is_loopback(host: str) -> bool:
    """Whether a name or address only reaches this machine."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class OpenSessions:
    """The sessions of running calls, counted by the loop that opens them, so that none is counted late."""

    def __init__(self, engine: Engine):
        self._rate, self._max_sessions = engine.sample_rate, engine.config.max_sessions
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    def add(self, session: Session) -> None:
        self._sessions.add(session)

    @property
    def free(self) -> int:
        return self._max_sessions - sum(not session.closing for session in self._sessions)

    @property
    def buffered_s(self) -> float:
        """The most that a caller is ahead of the model."""
        return max((session.stats.buffered_samples for session in self._sessions), default=0) / self._rate


class Admission:
    """The door of one server."""

    def __init__(self, engine: Engine, access: Access, limits: Limits):
        self.sessions = OpenSessions(engine)
        self.engine, self.access, self.limits = engine, access, limits
        self.draining = False
        self._calls: Counter[str] = Counter()

    @property
    def num_calls(self) -> int:
        return self._calls.total()

    def authorize(self, headers: Mapping[str, str], protocols: list[str]) -> Refusal | None:
        """Look at the token, and at where a browser comes from."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and not self._origin_allowed(origin, host):
            return Refusal(403, "origin_not_allowed", "this page may not call this server")
        if self.access.token is None:
            if self.access.hosts is not None and _name(host) not in self.access.hosts and not is_loopback(_name(host)):
                return Refusal(403, "host_not_allowed", "this server does not go by that name")
            return None
        given = presented_token(headers, protocols)
        # Digests of equal length are compared, so that time tells neither content nor length.
        if not hmac.compare_digest(_digest(given), _digest(self.access.token)):
            return Refusal(401, "invalid_api_key", "the token is missing or wrong")
        return None

    def admit(self, client: str) -> Refusal | None:
        """Whether a call of this client would be taken now."""
        stats = self.engine.stats
        if self.draining:
            return Refusal(503, "server_draining", "this server is going away")
        if not stats.warm:
            return Refusal(503, "server_starting", "the model is not ready yet")
        limit = self.limits.max_per_client
        if limit is not None and self._calls[client] >= limit:
            return Refusal(429, "too_many_calls", f"a client may have {limit} calls at once")
        if self.free <= 0:
            return Refusal(503, "server_full", "all sessions are taken, try again later")
        return None

    @property
    def free(self) -> int:
        """Sessions that may be opened now."""
        return min(self.sessions.free, self.engine.stats.free)

    def open(self, config: SessionConfig) -> Session:
        """Raises EngineFull."""
        if self.sessions.free <= 0:
            raise EngineFull("all sessions are taken")
        session = self.engine.open(config)
        self.sessions.add(session)
        return session

    def client_of(self, headers: Mapping[str, str], protocols: list[str], address: str) -> str:
        """What calls are counted by: the token where there is one, never the token itself."""
        return address if self.access.token is None else _digest(presented_token(headers, protocols)).hex()[:16]

    @contextlib.contextmanager
    def call(self, client: str) -> Iterator[None]:
        """Count a call while it lasts."""
        self._calls[client] += 1
        try:
            yield
        finally:
            self._calls[client] -= 1
            if not self._calls[client]:
                del self._calls[client]

    def _origin_allowed(self, origin: str, host: str) -> bool:
        return origin in self.access.origins or "*" in self.access.origins or urlsplit(origin).netloc == host


def presented_token(headers: Mapping[str, str], protocols: list[str]) -> str:
    """The token of a request: `Authorization: Bearer ...`, or a sub-protocol, which is all that a browser can set."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    for protocol in protocols:
        if protocol.startswith(KEY_PROTOCOL):
            return protocol.removeprefix(KEY_PROTOCOL)
    return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
