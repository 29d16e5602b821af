"""Define the metrics of an agent. None has a label for image or node: those have no bound."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_STATES = ("warm", "waiting", "pulling", "failed", "malformed")


class Metrics:
    """The metrics of one agent."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        gauge, counter = partial(Gauge, registry=registry), partial(Counter, registry=registry)
        self._lines = gauge("warmhook_lines", "Lines of this node by state", ["state"])
        self._pulls = counter("warmhook_pulls", "Pulls that ended, by result and reason", ["result", "reason"])
        buckets = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
        histogram = partial(Histogram, buckets=buckets, registry=registry)
        self._seconds = histogram("warmhook_pull_seconds", "How long successful pulls took")
        self._bytes = counter(
            "warmhook_pull_bytes", "Sizes of the new images that pulls brought; layers that images share count for each"
        )
        self._fetched = counter("warmhook_fetched_bytes", "Bytes that came before pulls, by source", ["source"])
        self._transfer_seconds = histogram("warmhook_transfer_seconds", "How long the blobs of an image took to come")
        self._unpack_seconds = histogram("warmhook_unpack_seconds", "How long the pulls after such transfers took")
        self._fallbacks = counter(
            "warmhook_peer_fallbacks",
            "Images that came from the registry though other nodes should give them",
            ["reason"],
        )
        self._served = counter("warmhook_served_bytes", "Bytes that this node sent to others")
        self._requests = counter(
            "warmhook_peer_requests", "Requests of other nodes, by result and reason", ["result", "reason"]
        )
        self._evictions = counter("warmhook_evictions", "Warm images that another program removed")
        self._pinned = gauge("warmhook_pinned_images", "Images of lines with `pinned` that the runtime pins")
        self._removals = counter("warmhook_removals", "Images that the agent removed, or failed to", ["result"])
        self._api_requests = counter("warmhook_api_requests", "Requests to the API server", ["kind", "verb", "code"])
        self._api_up = gauge("warmhook_api_up", "Whether the API server answered last time")
        self._runtime_up = gauge("warmhook_runtime_up", "Whether the runtime answered last time")
        self._last_check = gauge(
            "warmhook_last_check_timestamp_seconds", "When the runtime last said what it has, in Unix time"
        )
        self._free = gauge(
            "warmhook_disk_free_percent", "Free share of the disk for images, in percent; NaN where it cannot be seen"
        )
        self._free.set(float("nan"))
        self._least_free = gauge(
            "warmhook_disk_min_free_percent", "Below this free share nothing is pulled: WARMHOOK_MIN_FREE_PERCENT"
        )
        self.lines(())

    def lines(self, states: Iterable[str], malformed: int = 0) -> None:
        """The current states, one for each line."""
        count = Tally(states)
        count["malformed"] = malformed
        for state in _STATES:
            self._lines.labels(state).set(count[state])

    def pull(self, result: str, reason: str, seconds: float, size_bytes: int = 0) -> None:
        """Count one pull: `pulled`, `failed` or `cancelled`."""
        self._pulls.labels(result, reason).inc()
        if result == "pulled":
            self._seconds.observe(seconds)
            self._bytes.inc(size_bytes)

    def fetched(self, source: str, size_bytes: int) -> None:
        """Bytes came before a pull from `peers` or the `registry`."""
        self._fetched.labels(source).inc(size_bytes)

    def transferred(self, seconds: float) -> None:
        """A transfer before a pull ended."""
        self._transfer_seconds.observe(seconds)

    def unpacked(self, seconds: float) -> None:
        """The pull after a transfer succeeded."""
        self._unpack_seconds.observe(seconds)

    def fell_back(self, reason: str) -> None:
        """Other nodes did not give all of an image: `ParentsUnreachable`, `ParentsFellShort` or `TransferFailed`."""
        self._fallbacks.labels(reason).inc()

    def served(self, size_bytes: int) -> None:
        """Bytes went to another node."""
        self._served.inc(size_bytes)

    def peer_request(self, result: str, reason: str = "") -> None:
        """A request of another node: `done`, `busy` or `refused`."""
        self._requests.labels(result, reason).inc()

    def checked(self, unix_time: float | None) -> None:
        """A check ended at that time; `None` if the runtime did not answer."""
        self._runtime_up.set(unix_time is not None)
        if unix_time is not None:
            self._last_check.set(unix_time)

    def free_space(self, percent: float | None) -> None:
        """The free share of the disk for images; `None` if it is unknown."""
        self._free.set(float("nan") if percent is None else percent)

    def least_free_space(self, percent: int) -> None:
        """The setting for the free share of the disk for images; 0: nothing is measured."""
        self._least_free.set(percent)

    def evicted(self, images: int) -> None:
        """Another program removed so many images from the runtime."""
        self._evictions.inc(images)

    def pinned(self, images: int) -> None:
        """So many images of pinned lines are pinned at the runtime."""
        self._pinned.set(images)

    def removal(self, result: str) -> None:
        """Count one removal: `removed` or `failed`."""
        self._removals.labels(result).inc()

    def count_api_request(self, kind: str, verb: str, code: str, _seconds: float) -> None:
        """One answer of the API server; the code is `unreachable` if there was none.

        How long it took is left to `web`: a histogram of each node would be most of the series of a large cluster.
        """
        self._api_requests.labels(kind, verb, code).inc()
        self._api_up.set(code != "unreachable")

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
