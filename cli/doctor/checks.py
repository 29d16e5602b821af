"""Read what `warmhook doctor` checks: each check by itself, side by side, and within some seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.errors import KubernetesError, NotFound, NotServed, Unavailable
from cli.cluster import AGENTS, Cluster
from cli.doctor.admission import admission
from cli.doctor.programs import deliveries, programs, quota
from cli.doctor.rights import own_rights, rights
from cli.lease import read_lease
from cli.server_time import server_time
from warmhook import doctor, doctor_nodes, doctor_objects
from warmhook.api import VERSION
from warmhook.checks import Check
from warmhook.doctor import Definition
from warmhook.doctor_leader import leader_check
from warmhook.ports import Object, Unreachable

_SECONDS: Final = 15.0
"""For one check, all of whose requests together; a list of 5,000 nodes takes some of them."""


@dataclass(frozen=True, slots=True)
class _Topic:
    """Checks that are read together."""

    subjects: Sequence[str]
    """What is unknown if they cannot be read."""
    read: Callable[[Cluster, datetime], Awaitable[Sequence[Check]]]


async def run_checks(cluster: Cluster, agents: str = AGENTS) -> list[Check]:
    """All checks in the order of their subjects; `agents` is the namespace of the agents.

    Raises `Unavailable` if the API server does not answer.
    """
    first, now = await _api(cluster)
    found = await asyncio.gather(*(_read(topic, cluster, now) for topic in _topics(agents)))
    return [*first, *(check for checks in found for check in checks)]


async def _read(topic: _Topic, cluster: Cluster, now: datetime) -> Sequence[Check]:
    why = f"not read within {_SECONDS:g} s"
    try:
        async with asyncio.timeout(_SECONDS):
            return await topic.read(cluster, now)
    except NotServed as error:
        why = f"{error}"
    except KubernetesError as error:
        why = str(error)
    except TimeoutError:
        pass
    except Exception as error:
        why = f"unexpected {type(error).__name__}"
    return [Check(subject, "unknown", f"could not be read: {why}", "", "Unread") for subject in topic.subjects]


async def _api(cluster: Cluster) -> tuple[list[Check], datetime]:
    """That the API server answers, and its time."""
    try:
        answer = await cluster.transport.request("GET", "/version", timeout_seconds=_SECONDS)
    except Unreachable as error:
        raise Unavailable(str(error)) from error
    local = cluster.clock.utcnow()
    try:
        version = str((await cluster.kubernetes.get("/version")).get("gitVersion", ""))
    except KubernetesError:
        version = ""
    server = server_time(answer)
    skewed = server is not None and abs(server - local) >= timedelta(seconds=2)
    return [doctor.api_check(cluster.host, version), doctor.clock_check(server, local)], (
        server if skewed and server is not None else local
    )


async def _definitions(cluster: Cluster, _now: datetime) -> list[Check]:
    # Imported here: building models costs more than the other checks.
    from adapters.kubernetes.warmimage import warmimage_crd
    from adapters.kubernetes.warmpolicy import warmpolicy_crd

    found = []
    for ours in (warmpolicy_crd(), warmimage_crd()):
        name = ours["metadata"]["name"]
        try:
            theirs = await cluster.kubernetes.get(f"{paths.CRDS}/{name}")
        except NotFound:
            found.append(Definition(name, exists=False))
            continue
        found.append(_definition(name, ours, theirs))
    return [doctor.definition_check(found, VERSION)]


def _definition(name: str, ours: Object, theirs: Object) -> Definition:
    conditions = (theirs.get("status") or {}).get("conditions") or []
    versions = {version["name"]: version for version in theirs["spec"]["versions"]}
    mine, its = ours["spec"]["versions"][0], versions.get(VERSION) or {}
    return Definition(
        name,
        established=any(each.get("type") == "Established" and each.get("status") == "True" for each in conditions),
        served=bool(its.get("served")),
        same_schema=_without_descriptions(its.get("schema")) == _without_descriptions(mine["schema"]),
        stored=(theirs.get("status") or {}).get("storedVersions") or (),
    )


def _without_descriptions(schema: Any) -> Any:
    """A schema without the texts for people, which change from version to version; fields may be called so too."""
    if isinstance(schema, list):
        return [_without_descriptions(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key != "description" or not isinstance(value, str)}
    return {key: _without_descriptions(value) for key, value in kept.items()}


async def _leader(cluster: Cluster, now: datetime) -> list[Check]:
    return [leader_check(await read_lease(cluster), now, cluster.system_namespace)]


async def _nodes(cluster: Cluster, now: datetime, *, agents: str) -> list[Check]:
    reader = cluster.reader
    nodes, reports, full = await asyncio.gather(reader.nodes(), reader.reports(), reader.truncated())
    names = {node.name for node in nodes}
    refused = {each.node: each.refused for each in full if each.node in names}
    known = {name: report for name, report in reports.items() if name in names}
    return [*doctor_nodes.agent_checks(nodes, known, now, agents), doctor_nodes.lines_check(refused)]


async def _objects(cluster: Cluster, _now: datetime) -> list[Check]:
    policies, images = await asyncio.gather(
        cluster.kubernetes.list(paths.warmpolicies(), keep=_conditions),
        cluster.kubernetes.list(paths.warmimages(), keep=_conditions),
    )
    return [doctor_objects.policies_check(policies.items), doctor_objects.images_check(images.items)]


def _conditions(obj: Object) -> Object:
    metadata, status = obj["metadata"], obj.get("status") or {}
    return {
        "metadata": {"namespace": metadata.get("namespace"), "name": metadata["name"]},
        "status": {"conditions": status.get("conditions") or []},
    }


async def _others(cluster: Cluster, _now: datetime) -> list[Check]:
    found = []
    for name in doctor.OTHER_CRDS:
        try:
            await cluster.kubernetes.get(f"{paths.CRDS}/{name}", metadata_only=True)
        except NotFound:
            continue
        found.append(name)
    return [doctor.others_check(found)]


def _topics(agents: str) -> Sequence[_Topic]:
    return (
        _Topic(("you",), own_rights),
        _Topic(("crds",), _definitions),
        _Topic(("rights",), partial(rights, agents=agents)),
        _Topic(("programs", "daemonset", "versions"), partial(programs, agents=agents)),
        _Topic(("leader",), _leader),
        _Topic(("agents", "agent-versions", "node-clocks", "lines"), partial(_nodes, agents=agents)),
        _Topic(("admission", "certificate"), admission),
        _Topic(("deliveries",), deliveries),
        _Topic(("policies", "images"), _objects),
        _Topic(("quota",), partial(quota, agents=agents)),
        _Topic(("others",), _others),
    )
