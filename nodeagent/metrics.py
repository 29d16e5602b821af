"""What does an agent count? Never by image or node: those labels have no bound."""

from __future__ import annotations

import contextlib
from collections import Counter as Tally
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

__all__ = ["Metrics", "PortInUse", "serve_metrics"]

_STATES = ("warm", "waiting", "pulling", "failed", "malformed")


class PortInUse(Exception):
    """Metrics cannot be served on that port; the message says which and why."""


class Metrics:
    """The figures of one agent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lines = Gauge("warmhook_lines", "Lines of this node by state", ["state"], registry=self.registry)
        self._pulls = Counter(
            "warmhook_pulls", "Pulls that ended, by result and reason", ["result", "reason"], registry=self.registry
        )
        self._seconds = Histogram(
            "warmhook_pull_seconds",
            "How long successful pulls took",
            buckets=(0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
            registry=self.registry,
        )
        self._bytes = Counter(
            "warmhook_pull_bytes", "Size of the images that pulls brought, as the runtime says", registry=self.registry
        )
        self.lines(())

    def lines(self, states: Iterable[str], malformed: int = 0) -> None:
        """The present states, one for each line."""
        count = Tally(states)
        count["malformed"] = malformed
        for state in _STATES:
            self._lines.labels(state).set(count[state])

    def pull(self, result: str, reason: str, seconds: float, size_bytes: int = 0) -> None:
        """A pull ended: `pulled`, `failed` or `cancelled`."""
        self._pulls.labels(result, reason).inc()
        if result == "pulled":
            self._seconds.observe(seconds)
            self._bytes.inc(size_bytes)


@contextlib.contextmanager
def serve_metrics(metrics: Metrics, port: int) -> Iterator[None]:
    """Answer `GET /metrics` on every address while the context lasts; port 0: nowhere. Raises `PortInUse`."""
    if port == 0:
        yield
        return
    try:
        server, thread = start_http_server(port, "0.0.0.0", registry=metrics.registry)  # noqa: S104 - scraped from outside
    except OSError as error:
        raise PortInUse(f"WARMHOOK_METRICS_PORT {port} cannot be opened: {error}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
