"""Compare the status of a WarmImage with the model, and describe all differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from adapters.kubernetes import paths
from tests.model.check_nodes import digests_since, held, is_reported_warm
from tests.model.history import EPOCH, Spec
from tests.model.model import SKEW
from tests.model.wanted import Wanted, condition
from tests.model.world import NAMESPACE, World
from warmhook.ports import Object

__all__ = ["status_differences"]

# A WarmImage that is as old was there, and had a status, when a person asked for a refresh.
_BEFORE = timedelta(seconds=60)


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
    yield from _resolved(world, obj, wanted)


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
    asked = max(_asked(versions, value) for versions in world.history.policies.values())
    existed = datetime.fromisoformat(obj["metadata"]["creationTimestamp"]) < asked - _BEFORE
    if existed and (wanted.refreshed is None or wanted.refreshed < asked - SKEW):
        yield f"WarmImage {wanted.key}: was refreshed at {wanted.refreshed}, and asked for it at {asked}"


def _asked(versions: Sequence[tuple[datetime, Spec | None]], value: str) -> datetime:
    """When a policy had this value for the first time; never counts as long ago."""
    return min((since for since, spec in versions if spec and spec.refresh == value), default=EPOCH)


def _resolved(world: World, obj: Object, wanted: Wanted) -> Iterator[str]:
    """What the registry is said to have under a tag, it had at the last push or refresh, or since."""
    image, digest, moment = wanted.fact
    host = image.repository.partition("/")[0]
    if world.registries is None or not world.registries.serves(host) or not wanted.nodes:
        return
    if not wanted.resolved:
        yield f"WarmImage {wanted.key}: the registry was not asked: {(obj.get('status') or {}).get('resolved')}"
    created = datetime.fromisoformat(obj["metadata"]["creationTimestamp"])
    since = max(wanted.refreshed or EPOCH, moment or EPOCH, created if moment is None else EPOCH)
    right = digests_since(world.history.registry.get(str(image), []), since)
    if ":" not in image.tag and digest not in right:
        yield f"WarmImage {wanted.key}: the registry is said to have {digest} since {since}, should be {right}"
