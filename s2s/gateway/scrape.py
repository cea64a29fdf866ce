"""Scrape: what a server of ours says of itself under /metrics, for a benchmark that watches it from outside."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from s2s.gateway.client import endpoint

_TIMEOUT_S = 5.0
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Scraped:
    """step_ms: upper bound -> how many steps took at most that long since the start; the others count since then."""

    step_ms: dict[float, float]
    deadline_misses: float
    input_underruns: float
    sessions: float


def scrape(url: str, token: str | None = None) -> Scraped | None:
    """The present state of the server at `url`; None where it does not tell, as servers of others do not."""
    parts = urlsplit(endpoint(url))
    scheme = "https" if parts.scheme == "wss" else "http"
    request = urllib.request.Request(f"{scheme}://{parts.netloc}/metrics")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    # The environment's proxies are for the world outside; a server under test is called directly.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return parse_metrics(answer.read(_MAX_BYTES).decode("utf-8"))
    except (OSError, ValueError, KeyError):
        return None


def parse_metrics(text: str) -> Scraped:
    """Raises KeyError for metrics that are not those of our server."""
    values: dict[str, float] = {}
    steps: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "s2s_step_seconds_bucket":
                steps[1000 * float(sample.labels["le"])] = sample.value
            else:
                values[sample.name] = sample.value
    misses, underruns = values["s2s_deadline_misses_total"], values["s2s_underruns_total"]
    return Scraped(steps, misses, underruns, values["s2s_sessions"])
