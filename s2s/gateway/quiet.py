"""Quiet: lines that clients could repeat without end are logged once in a while; metrics count every one."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter


class Seldom:
    """Lets one line of a kind through per `every_s`. Kinds are few and ours: none is made of what a client sends."""

    def __init__(self, every_s: float = 60.0):
        self.every_s = every_s
        self._last_s: dict[str, float] = {}
        self._held: Counter[str] = Counter()

    def due(self, kind: str) -> int:
        """How many lines of this kind the present one stands for, itself included; 0: it is to be left out."""
        now_s = time.monotonic()
        self._held[kind] += 1
        if now_s - self._last_s.get(kind, -math.inf) < self.every_s:
            return 0
        self._last_s[kind] = now_s
        return self._held.pop(kind)


class QuietFilter(logging.Filter):
    """For a logger of what peers do: mistakes of a peer cost it its connection and us one line now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        count = self._seldom.due(f"{record.msg} {type(error).__name__}")
        if isinstance(error, UnicodeDecodeError):
            record.exc_info = None  # the peer's text, no fault of ours to be traced
        if count > 1:
            record.msg = f"{str(record.msg).rstrip()} ({count} times since the last such line)"
        return count > 0
