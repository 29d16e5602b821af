"""Count what `web` does, and `watch` inside it. No label is an image or a node."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_UNKNOWN: Final = float("nan")


class Metrics:
    """The metrics of one process, in its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self.deliveries = counter(
            "warmhook_deliveries",
            "Deliveries of registries, by what became of them.",
            ["source", "kind", "result", "reason"],
        )
        self.delivery_seconds = histogram(
            "warmhook_delivery_seconds",
            "From a delivery's last byte to its answer.",
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.5),
        )
        self.events = counter("warmhook_events", "CloudEvents handled.", ["type", "result"])
        self.dead_letters = counter(
            "warmhook_dead_letters", "Events that no subscriber took, by the last status.", ["type", "code"]
        )
        self.admissions = counter(
            "warmhook_admissions",
            "AdmissionReviews answered, by what became of them and whether the Pod was given preferences.",
            ["result", "reason", "patched"],
        )
        self.admission_seconds = histogram(
            "warmhook_admission_seconds",
            "From a review's last byte to its answer.",
            buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5),
        )
        self.admitted_images = counter(
            "warmhook_admitted_images",
            "Images of Pods at their admission, by which of the nodes that should have the image had it.",
            ["nodes"],
        )
        self._hints = counter("warmhook_hints", "Queued admissions, by what became of them.", ["result"])
        self._published = counter("warmhook_published", "Pushes posted to K_SINK.", ["result"])
        self._api_requests = counter("warmhook_api_requests", "Requests to the API server.", ["kind", "verb", "code"])
        self._api_seconds = histogram(
            "warmhook_api_request_seconds",
            "From a request to the API server to its answer; of a watch, to the begin of the answer.",
            ["verb"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
        )
        self._written_bytes = counter(
            "warmhook_written_bytes", "Sizes of the ConfigMaps of nodes after each write, which etcd stores whole."
        )
        self._leader = gauge(
            "warmhook_leader", "1 if this process is the leader of watch, 0 if not; NaN if it does not ask for it"
        )
        self._certificate_expiry = gauge(
            "warmhook_certificate_expiry_timestamp_seconds",
            "When the certificate of admission expires, in Unix time; NaN if this process has none",
        )
        self._leader.set(_UNKNOWN)
        self._certificate_expiry.set(_UNKNOWN)
        self._resolutions = counter("warmhook_resolutions", "Images that registries were asked for.", ["result"])
        self._early_blobs = counter(
            "warmhook_early_blobs", "Blobs that were pushed before their manifest, by what became of them.", ["result"]
        )
        self._plans = counter("warmhook_plans", "Images whose distribution was planned, by outcome.", ["outcome"])
        self.push_to_warm_seconds = histogram(
            "warmhook_push_to_warm_seconds",
            "From a push to the moment its last node was seen warm.",
            buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
        )

    def count_api_request(self, kind: str, verb: str, code: str, seconds: float) -> None:
        """Count one answer of the API server, or none (`unreachable`), after so many seconds."""
        self._api_requests.labels(kind, verb, code).inc()
        self._api_seconds.labels(verb).observe(seconds)

    def count_written(self, size_bytes: int) -> None:
        """Count the write of a ConfigMap that is so large now."""
        self._written_bytes.inc(size_bytes)

    def ask_leader(self, leads: Callable[[], bool]) -> None:
        """Call `leads` at each scrape: whether this process holds the Lease then."""
        self._leader.set_function(leads)

    def ask_certificate(self, expiry: Callable[[], float]) -> None:
        """Call `expiry` at each scrape: when the certificate expires, in Unix time, or NaN."""
        self._certificate_expiry.set_function(expiry)

    def count_hint(self, result: str) -> None:
        """Count one queued admission: `handled`, or `failed` and dropped."""
        self._hints.labels(result).inc()

    def count_published(self, result: str) -> None:
        """Count one event: `published`, `failed` or `dropped`."""
        self._published.labels(result).inc()

    def count_resolution(self, result: str) -> None:
        """Count one answer of a registry: `resolved`, `unchanged` or a problem."""
        self._resolutions.labels(result).inc()

    def count_early_blobs(self, result: str, blobs: int) -> None:
        """Count blobs: `noted` for nodes, `skipped` because no node wants them early, or `dropped`."""
        self._early_blobs.labels(result).inc(blobs)

    def count_plan(self, outcome: str) -> None:
        """Count one plan for one image: `Peers`, or why every node reads the registry."""
        self._plans.labels(outcome).inc()

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
