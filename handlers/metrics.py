"""Count what `web` does, and `watch` inside it. No label is an image or a node."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest


class Metrics:
    """The metrics of one process, in its own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.deliveries = Counter(
            "warmhook_deliveries",
            "Deliveries of registries, by what became of them.",
            ["source", "kind", "result", "reason"],
            registry=self._registry,
        )
        self.delivery_seconds = Histogram(
            "warmhook_delivery_seconds",
            "From a delivery's last byte to its answer.",
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.5),
            registry=self._registry,
        )
        self.events = Counter("warmhook_events", "CloudEvents handled.", ["type", "result"], registry=self._registry)
        self._dead_letters = Counter(
            "warmhook_dead_letters",
            "Events that no subscriber took, by the last status.",
            ["type", "code"],
            registry=self._registry,
        )
        self.admissions = Counter(
            "warmhook_admissions",
            "AdmissionReviews answered, by what became of them and whether the Pod was given preferences.",
            ["result", "reason", "patched"],
            registry=self._registry,
        )
        self.admission_seconds = Histogram(
            "warmhook_admission_seconds",
            "From a review's last byte to its answer.",
            buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5),
            registry=self._registry,
        )
        self._hints = Counter(
            "warmhook_hints", "Queued admissions, by what became of them.", ["result"], registry=self._registry
        )
        self._published = Counter("warmhook_published", "Pushes posted to K_SINK.", ["result"], registry=self._registry)
        self._api_requests = Counter(
            "warmhook_api_requests", "Requests to the API server.", ["kind", "verb", "code"], registry=self._registry
        )
        self.push_to_warm_seconds = Histogram(
            "warmhook_push_to_warm_seconds",
            "From a push to the moment its last node was seen warm.",
            buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
            registry=self._registry,
        )

    def count_api_request(self, kind: str, verb: str, code: str) -> None:
        """Count one answer of the API server, or none (`unreachable`)."""
        self._api_requests.labels(kind, verb, code).inc()

    def count_hint(self, result: str) -> None:
        """Count one queued admission: `handled`, or `failed` and dropped."""
        self._hints.labels(result).inc()

    def count_dead_letter(self, kind: str, code: str) -> None:
        """Count one event of a type that a subscriber rejected with `code`."""
        self._dead_letters.labels(kind, code).inc()

    def count_published(self, result: str) -> None:
        """Count one event: `published`, `failed` or `dropped`."""
        self._published.labels(result).inc()

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)
