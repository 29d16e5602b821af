"""Compare the status of a WarmImage with the model, and describe all differences."""

from __future__ import annotations

from collections.abc import Iterator

from adapters.kubernetes import paths
from tests.model.check_nodes import held, is_reported_warm
from tests.model.wanted import Wanted, condition
from tests.model.world import NAMESPACE, World
from warmhook.ports import Object

__all__ = ["status_differences"]


def status_differences(world: World, obj: Object, wanted: Wanted) -> Iterator[str]:
    """What is wrong with the status of a WarmImage that can be read."""
    status, key = obj.get("status") or {}, wanted.key
    if status.get("observedGeneration") != obj["metadata"]["generation"]:
        yield f"WarmImage {key}: status is of generation {status.get('observedGeneration')}"
    allowed = condition(status, "Allowed").get("status", "True") == "True"
    if allowed != wanted.allowed:
        yield f"WarmImage {key}: Allowed is {allowed}, should be {wanted.allowed}"
    if wanted.complete:
        return  # its numbers are those of its end
    yield from _counts(world, status, wanted)
    ready = condition(status, "Ready")
    if wanted.purged and (ready.get("status"), ready.get("reason")) != ("False", "Purged"):
        yield f"WarmImage {key}: is purged, and Ready {ready}"
    if wanted.idle:
        return
    if wanted.nodes and wanted.once:
        yield f"WarmImage {key}: is warm on all nodes and not complete"
    if wanted.nodes and "completedAt" not in status:
        yield f"WarmImage {key}: was never complete on {len(wanted.nodes)} nodes"
    yield from _refreshed(world, obj, wanted)


def _counts(world: World, status: Object, wanted: Wanted) -> Iterator[str]:
    key, chosen = wanted.key, len(wanted.nodes)
    warm = sum(is_reported_warm(_report(world, node), wanted) for node in wanted.nodes) if wanted.idle else chosen
    counts = {name: status.get(name) for name in ("desired", "warm", "pulling", "waiting", "failed", "unreachable")}
    right = {"desired": chosen, "warm": warm, "pulling": 0, "waiting": chosen - warm, "failed": 0, "unreachable": 0}
    if counts != right:
        yield f"WarmImage {key}: status {counts}, should be {right}"
    if wanted.idle:
        return
    digest = wanted.fact[1] or None
    found = {held(world, node, wanted.fact[0]) for node in wanted.nodes}
    if status.get("digest") != (digest if found <= {digest} else None):
        yield f"WarmImage {key}: status tells of {status.get('digest')}"


def _report(world: World, node: str) -> Object:
    return world.ask("GET", paths.configmaps(NAMESPACE, f"warmhook-report-{node}"))


def _refreshed(world: World, obj: Object, wanted: Wanted) -> Iterator[str]:
    """What a person asked for by annotation was done, once it can be."""
    status, image = obj.get("status") or {}, wanted.fact[0]
    value = (obj["metadata"].get("annotations") or {}).get("warmhook.dev/policy-refresh", "")
    if not value or ":" in image.tag:
        return
    if status.get("policyRefreshHandled") != value:
        yield f"WarmImage {wanted.key}: refresh {value} was not handled: {status.get('policyRefreshHandled')}"
