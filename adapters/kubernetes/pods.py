"""Read the fields of Pods and workloads that Warmhook needs, a small part of each."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias, get_args

from warmhook.admission_review import Admitted, read_containers, read_pod
from warmhook.labels import NotASelector, Selector, parse_selector
from warmhook.lenient_fields import as_mapping
from warmhook.ports import Object
from warmhook.workload_images import Workload

WorkloadKind: TypeAlias = Literal["Deployment", "StatefulSet", "DaemonSet", "CloneSet"]
WORKLOAD_KINDS: Final[tuple[WorkloadKind, ...]] = get_args(WorkloadKind)

RUNNING_FIELDS: Final = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Selects the Pods that have a node and have not ended."""
PODS_PAGE: Final = 100
"""Full Pods per page of a list: reading a page must not delay other requests for long."""
_WITH_IMAGES: Final = ("initContainers", "containers", "ephemeralContainers", "volumes")


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


def read_existing_pod(pod: Object, namespace: str) -> Admitted | None:
    """The images of a Pod and its owner, without its constraints; `None` if it has none, or too many parts."""
    spec = as_mapping(pod.get("spec"))
    return read_pod({**pod, "spec": {name: spec[name] for name in _WITH_IMAGES if name in spec}}, namespace)


def read_workload(kind: WorkloadKind, workload: Object) -> Workload | None:
    """The images of a workload and the selector of its Pods; `None` if that selects all or cannot be read.

    Any field may have any content: the CRD of CloneSets does not say what a template is.
    """
    spec = as_mapping(workload.get("spec"))
    try:
        selector = parse_selector(as_mapping(spec.get("selector")))
    except NotASelector:
        return None
    if not selector.requirements:
        return None
    containers = read_containers(as_mapping(as_mapping(spec.get("template")).get("spec")))
    return Workload(f"{kind}/{workload['metadata']['name']}", selector, containers)
