"""Read objects of the API server as the little that the page keeps of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, get_args

from handlers.reconcile.objects import object_key, read_desired
from warmhook.checks import Check, CheckState
from warmhook.image_status import read_tally
from warmhook.inventory import DesiredFacts, ImageFacts, NodeFacts, ReportFacts
from warmhook.lenient_fields import as_mapping, as_mappings, as_time
from warmhook.node_report import LineState, clean_message, read_report
from warmhook.ports import Object
from warmhook.pull_failures import FailureReason
from warmhook.status import Failure, find_condition
from warmhook.timeline import read_push_times

POOL_LABELS: Final = (
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
    "karpenter.sh/nodepool",
    "doks.digitalocean.com/node-pool",
    "k8s.scaleway.com/pool-name",
    "lke.linode.com/pool-id",
    "node.cluster.x-k8s.io/pool",
    "pool",
)
"""Labels of Nodes that name the pool of a node; the first that a node has counts."""
_ZONE_LABEL: Final = "topology.kubernetes.io/zone"
_ROLE_PREFIX: Final = "node-role.kubernetes.io/"
_TEXT_MAX: Final = 512
_IMAGE_MAX: Final = 800
"""As the CRD allows: commands and deliveries name whole images."""
_UNREADABLE: Final = "this version of the page cannot read the object; look with kubectl"
_WRONG_IF_TRUE: Final = frozenset({"Degraded"})


def read_node_facts(metadata: Mapping[str, Any], pool_label: str = "") -> NodeFacts:
    """A Node from its metadata; `pool_label` names its pool, if it is not one of `POOL_LABELS`.

    A node without a pool is in that of its role, such as `control-plane`.
    """
    labels = metadata.get("labels") or {}
    names = (pool_label,) if pool_label else POOL_LABELS
    roles = sorted(label.removeprefix(_ROLE_PREFIX) for label in labels if label.startswith(_ROLE_PREFIX))
    pool = next((labels[name] for name in names if labels.get(name)), roles[0] if roles else "")
    return NodeFacts(
        metadata["name"],
        sys.intern(pool),
        sys.intern(labels.get(_ZONE_LABEL, "")),
        as_time(metadata.get("creationTimestamp")),
    )


def read_desired_facts(metadata: Mapping[str, Any]) -> tuple[str, DesiredFacts]:
    """The node of a desired ConfigMap, empty if it is none, and its lines."""
    desired = read_desired(metadata)
    if desired is None:
        return "", DesiredFacts()
    lines = tuple(sorted(map(_line, desired.lines, desired.lines.values())))
    return desired.node, DesiredFacts(lines, tuple(sys.intern(key) for key in sorted(desired.refused)))


def read_report_facts(metadata: Mapping[str, Any]) -> tuple[str, ReportFacts]:
    """The node of a report, empty if it is none, and what it says."""
    report = read_report(metadata)
    states = tuple(sorted(_state(key, state, version) for key, (state, version) in report.states.items()))
    return report.node, ReportFacts(report.seen, tuple(map(sys.intern, sorted(report.warm))), states)


# Thousands of nodes have the same few hundred lines, in the same few states.
@lru_cache(maxsize=4096)
def _line(key: str, version: str) -> tuple[str, str]:
    return sys.intern(key), sys.intern(version)


@lru_cache(maxsize=4096)
def _state(key: str, state: LineState, version: str) -> tuple[str, LineState, str]:
    return sys.intern(key), state, sys.intern(version)


def read_image_facts(obj: Object) -> ImageFacts:
    """A WarmImage. What is no text, number or time where it should be is left out: its namespace writes the spec."""
    try:
        return _image_facts(obj)
    except (AttributeError, TypeError, ValueError):
        # Of a version with other forms of fields. Others are shown as ever.
        return ImageFacts(object_key(obj), "", reason="Invalid", message=_UNREADABLE)


def _image_facts(obj: Object) -> ImageFacts:
    metadata, spec, status = obj["metadata"], as_mapping(obj.get("spec")), as_mapping(obj.get("status"))
    resolved, ready = as_mapping(status.get("resolved")), find_condition(status, "Ready")
    complete = find_condition(status, "Complete")
    return ImageFacts(
        key=object_key(obj),
        image=_text(spec.get("image"), _IMAGE_MAX),
        policy=_text(spec.get("policyName")),
        digest=_text(status.get("digest") or resolved.get("digest") or spec.get("digest")),
        times=read_push_times(obj),
        counted=read_tally(status),
        complete=complete.get("status") == "True" and complete.get("observedGeneration") == metadata.get("generation"),
        limited_platforms=bool(resolved.get("platforms")),
        ready=ready.get("status") == "True",
        reason=_text(ready.get("reason")),
        message=_text(ready.get("message")),
        conditions=tuple(_check(each) for each in as_mappings(status.get("conditions"))),
        failures=tuple(_failure(each) for each in as_mappings(status.get("failures"))),
    )


def _check(condition: Mapping[str, Any]) -> Check:
    """A condition as a check: what is not Ready may only need time."""
    kind, holds = _text(condition.get("type")), condition.get("status") == "True"
    state: CheckState = "wrong" if holds else "ok"
    if kind not in _WRONG_IF_TRUE:
        state = "ok" if holds else "wrong" if kind in ("Allowed", "Distributed") else "waiting"
    reason, message = _text(condition.get("reason")), _text(condition.get("message"))
    return Check(kind, state, message or reason, reason="" if state == "ok" else reason)


def _failure(found: Mapping[str, Any]) -> Failure:
    given = found.get("reason")
    reason: FailureReason = next((known for known in get_args(FailureReason) if known == given), "RuntimeError")
    return Failure(_text(found.get("node")), reason, _text(found.get("message")))


def _text(value: Any, most: int = _TEXT_MAX) -> str:
    """A text that may come from a tenant or a node, printable and cut."""
    if not isinstance(value, str):
        return ""
    cut = value[:most]
    return cut if cut.isprintable() else " ".join(clean_message(cut).split())
