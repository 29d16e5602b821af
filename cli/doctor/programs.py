"""Read the programs as Pods run them, their configuration, and what registries delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import yaml

from adapters.kubernetes import paths
from adapters.kubernetes.errors import KubernetesError, NotFound
from adapters.strictyaml import decode
from cli.cluster import Cluster
from cli.program_settings import read_settings
from warmhook import doctor, doctor_objects
from warmhook.checks import Check
from warmhook.doctor import Workload
from warmhook.ports import Object

_DAEMON_SET: Final = "warmhook-agent"
_QUOTA: Final = "warmhook-critical-pods"
_CONFIG: Final = "warmhook-config"
_RECEIVERS: Final = ("warmhook-web", "warmhook-receiver")


async def programs(cluster: Cluster, _now: datetime, *, agents: str) -> list[Check]:
    """The Deployments of the namespace of Warmhook, which has nothing else, and the DaemonSet of the agents."""
    deployments, daemon_set = await asyncio.gather(_deployments(cluster), _daemon_set(cluster, agents))
    return doctor.workload_checks([_deployment(each) for each in deployments], daemon_set)


async def quota(cluster: Cluster, _now: datetime, *, agents: str) -> list[Check]:
    """The quota for Pods of a system priority."""
    daemon_set = await _daemon_set(cluster, agents)
    try:
        found = await cluster.kubernetes.get(f"/api/v1/namespaces/{paths.segment(agents)}/resourcequotas/{_QUOTA}")
    except NotFound:
        return [doctor.quota_check(None, None, daemon_set)]
    status = found.get("status") or {}
    hard = (status.get("hard") or (found.get("spec") or {}).get("hard") or {}).get("pods")
    used = (status.get("used") or {}).get("pods")
    return [doctor.quota_check(_count(used), _count(hard), daemon_set)]


async def deliveries(cluster: Cluster, now: datetime) -> list[Check]:
    """The last deliveries of each source."""
    sources = await _sources(cluster)
    try:
        records = await cluster.reader.delivery_records()
    except NotFound:
        message = "nobody keeps them: there is no ConfigMap warmhook-deliveries"
        mend = "apply the manifests of your version again: docs/install.md"
        return [Check("deliveries", "unknown", message, mend, "NoRecords")]
    return doctor_objects.delivery_checks(records, sources, now, cluster.system_namespace)


async def _deployments(cluster: Cluster) -> list[Object]:
    return (await cluster.kubernetes.list(paths.workloads("Deployment", cluster.system_namespace))).items


async def _daemon_set(cluster: Cluster, agents: str) -> Workload | None:
    try:
        found = await cluster.kubernetes.get(f"{paths.workloads('DaemonSet', agents)}/{_DAEMON_SET}")
    except NotFound:
        return None
    status = found.get("status") or {}
    return Workload(
        "DaemonSet",
        agents,
        _DAEMON_SET,
        _number(status, "desiredNumberScheduled"),
        _number(status, "updatedNumberScheduled"),
        _number(status, "numberAvailable"),
        _is_observed(found),
        tuple(_images(found)),
        _number(status, "currentNumberScheduled"),
    )


def _deployment(obj: Object) -> Workload:
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    replicas = spec.get("replicas")
    return Workload(
        "Deployment",
        metadata["namespace"],
        metadata["name"],
        1 if replicas is None else int(replicas),
        _number(status, "updatedReplicas"),
        _number(status, "availableReplicas"),
        _is_observed(obj),
        tuple(_images(obj)),
    )


def _is_observed(obj: Object) -> bool:
    return bool(_number(obj.get("status") or {}, "observedGeneration") >= _number(obj["metadata"], "generation"))


def _images(obj: Object) -> Iterator[str]:
    template = (obj.get("spec") or {}).get("template") or {}
    for container in (template.get("spec") or {}).get("containers") or []:
        yield str(container.get("image", ""))


def _number(status: Mapping[str, Any], name: str) -> int:
    found = status.get(name)
    return found if isinstance(found, int) else 0


def _count(text: object) -> int | None:
    """A quantity of Pods: `10`, `1k`, `1G`; `None` if it is none."""
    digits = str(text).rstrip("kMG") if text is not None else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        return None
    return int(digits) * {"k": 10**3, "M": 10**6, "G": 10**9}.get(str(text)[-1], 1)


async def _sources(cluster: Cluster) -> Sequence[str] | None:
    """The names of the configured sources; `None` if the configuration of the receiver cannot be found."""
    try:
        found = await read_settings(cluster, _RECEIVERS, _CONFIG)
    except KubernetesError:
        return None
    return None if found is None else _names(found.config)


def _names(text: str) -> Sequence[str] | None:
    try:
        loaded = decode(text)
    except yaml.YAMLError:
        return None
    listed = loaded.get("sources") if isinstance(loaded, dict) else None
    return [str(each.get("name", "")) for each in listed or () if isinstance(each, dict)]
