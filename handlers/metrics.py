"""Count what `web` does, and `watch` inside it. No label is an image or a node."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest


class Metrics:
    """The metrics of one process, in its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
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
        self._hints = counter("warmhook_hints", "Queued admissions, by what became of them.", ["result"])
        self._published = counter("warmhook_published", "Pushes posted to K_SINK.", ["result"])
        self._api_requests = counter("warmhook_api_requests", "Requests to the API server.", ["kind", "verb", "code"])
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

    def count_api_request(self, kind: str, verb: str, code: str) -> None:
        """Count one answer of the API server, or none (`unreachable`)."""
        self._api_requests.labels(kind, verb, code).inc()

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
