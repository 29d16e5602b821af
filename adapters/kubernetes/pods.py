"""Read the fields of Pods and workloads that Warmhook needs, a small part of each."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

from warmhook.admission_review import read_containers
from warmhook.labels import NotASelector, Selector, parse_selector
from warmhook.ports import Object
from warmhook.workload_images import Workload

WorkloadKind: TypeAlias = Literal["Deployment", "StatefulSet", "DaemonSet", "CloneSet"]
WORKLOAD_KINDS: Final[tuple[WorkloadKind, ...]] = get_args(WorkloadKind)

RUNNING_FIELDS: Final = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Selects the Pods that have a node and have not ended."""
PODS_PAGE: Final = 100
"""Full Pods per page of a list: reading a page must not delay other requests for long."""


def reduced_running_pod(pod: Object) -> Object:
    """The labels and the node of a Pod; interned, because thousands of Pods have the same few hundred."""
    labels = (pod.get("metadata") or {}).get("labels") or {}
    return {
        "labels": {sys.intern(key): sys.intern(value) for key, value in labels.items()},
        "node": sys.intern((pod.get("spec") or {}).get("nodeName") or ""),
    }


def nodes_running(pods: Iterable[Object], selector: Selector) -> frozenset[str]:
    """The nodes of those of these reduced Pods that the selector matches."""
    return frozenset(pod["node"] for pod in pods if pod["node"] and selector.matches(pod["labels"]))


def reduced_pod(pod: Object) -> Object:
    """A Pod with its owner, its labels and its images."""
    metadata = pod.get("metadata") or {}
    kept = ("name", "generateName", "labels", "ownerReferences")
    return {"metadata": {name: metadata[name] for name in kept if name in metadata}, "spec": _images(pod.get("spec"))}


def reduced_workload(workload: Object) -> Object:
    """A workload with its labels, the selector of its Pods, and their images."""
    metadata, spec = workload["metadata"], workload.get("spec") or {}
    template = spec.get("template") or {}
    return {
        "metadata": {name: metadata[name] for name in ("name", "namespace", "labels") if name in metadata},
        "spec": {"selector": spec.get("selector"), "template": {"spec": _images(template.get("spec"))}},
    }


def read_workload(kind: WorkloadKind, workload: Object) -> Workload | None:
    """A reduced workload; `None` if the selector of its Pods cannot be read, so nobody knows their nodes."""
    metadata, spec = workload["metadata"], workload["spec"]
    try:
        selector = parse_selector(spec["selector"] or {})
    except NotASelector:
        return None
    if not selector.requirements:
        return None
    return Workload(f"{kind}/{metadata['name']}", selector, read_containers(spec["template"]["spec"]))


def _images(spec: Mapping[str, Any] | None) -> Object:
    spec = spec or {}
    containers = {
        kind: [{"name": each.get("name"), "image": each.get("image")} for each in spec.get(kind) or []]
        for kind in ("initContainers", "containers", "ephemeralContainers")
    }
    volumes = [volume for volume in spec.get("volumes") or [] if volume.get("image")]
    return {**containers, "volumes": [{"name": each.get("name"), "image": each["image"]} for each in volumes]}
