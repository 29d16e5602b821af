"""List the metrics of the programs, and the labels that a scrape adds."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from handlers.metrics import Metrics as WebMetrics
from nodeagent.metrics import Metrics as AgentMetrics

_SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
OF_THE_SCRAPE: Final = frozenset({"cluster", "namespace", "job", "instance", "node", "pod"})
"""The labels of the targets; those of the file `podmonitors.yaml`, and `cluster`, which many add."""


def exposed() -> dict[str, frozenset[str]]:
    """The labels of each series of the programs, by its name; `up` is that of Prometheus itself."""
    found: dict[str, frozenset[str]] = {"up": frozenset()}
    for metrics in (WebMetrics(), AgentMetrics()):
        for name, labels in _series(metrics.registry):
            found[name] = found.get(name, frozenset()) | labels
    return found


def _series(registry: CollectorRegistry) -> list[tuple[str, frozenset[str]]]:
    found: list[tuple[str, frozenset[str]]] = []
    for collector in registry._collector_to_names:
        if not isinstance(collector, MetricWrapperBase):
            found += [
                (sample.name, frozenset(sample.labels)) for each in collector.collect() for sample in each.samples
            ]
            continue
        for suffix in _SUFFIXES.get(str(collector._type), ("",)):
            labels = {*collector._labelnames, *({"le"} if suffix == "_bucket" else ())}
            found.append((collector._name + suffix, frozenset(labels)))
    return found
