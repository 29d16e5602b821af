"""Ask the API server what the programs and the caller may do."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from adapters.kubernetes.errors import KubernetesError, NotFound
from cli.cluster import Cluster
from cli.doctor_programs import AGENTS
from warmhook import doctor
from warmhook.api import GROUP
from warmhook.checks import Check
from warmhook.ports import Object
from warmhook.rights import AGENT, EACH_ITS_OWN, ONE_PROCESS, RIGHTS, Part, Right

_REVIEWS: Final = "/apis/authorization.k8s.io/v1"
_AT_ONCE: Final = 8
_READ: Final = (
    ("list", "", "nodes", "", False),
    ("list", GROUP, "warmpolicies", "", False),
    ("list", GROUP, "warmimages", "", False),
    ("list", "", "configmaps", "", True),
    ("get", "", "secrets", "warmhook-tls", True),
    ("get", "coordination.k8s.io", "leases", "warmhook-watch", True),
    ("list", "apps", "deployments", "", True),
)
"""What the checks read: verb, group, resource, name, and whether only in the namespace of Warmhook."""


async def rights(cluster: Cluster, _now: datetime) -> list[Check]:
    """What the ServiceAccounts of the programs may do."""
    own = await _accounts(cluster)
    accounts = {(cluster.system_namespace, name): parts for name, parts in own.items()}
    accounts |= {(AGENTS, name): parts for name, parts in AGENT.items()}
    absent = [f"{namespace}/{name}" for namespace, name in accounts if not await _exists(cluster, namespace, name)]
    missing: defaultdict[str, list[Right]] = defaultdict(list)
    problems: list[str] = []
    turns = asyncio.Semaphore(_AT_ONCE)

    async def review(namespace: str, name: str, right: Right) -> None:
        user = f"system:serviceaccount:{namespace}:{name}"
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
        spec = {"user": user, "groups": groups, **_attributes(right, cluster.system_namespace)}
        async with turns:
            try:
                answer = await cluster.kubernetes.create(f"{_REVIEWS}/subjectaccessreviews", {"spec": spec})
            except KubernetesError as error:
                problems.append(str(error))
                return
        if not (answer.get("status") or {}).get("allowed"):
            missing[f"{namespace}/{name}"].append(right)

    wanted = [
        (namespace, name, right)
        for (namespace, name), parts in accounts.items()
        if f"{namespace}/{name}" not in absent
        for right in RIGHTS
        if right.part in parts
    ]
    await asyncio.gather(*(review(*each) for each in wanted))
    found = {account: sorted(rights) for account, rights in missing.items()}
    return [doctor.rights_check(found, len(accounts), absent, min(problems, default=""))]


async def own_rights(cluster: Cluster, _now: datetime) -> list[Check]:
    """What the caller may not read."""

    async def review(verb: str, group: str, resource: str, name: str, in_system: bool) -> str:
        attributes = {"verb": verb, "group": group, "resource": resource, "name": name}
        if in_system:
            attributes["namespace"] = cluster.system_namespace
        body = {"spec": {"resourceAttributes": attributes}}
        answer = await cluster.kubernetes.create(f"{_REVIEWS}/selfsubjectaccessreviews", body)
        where = f" in {cluster.system_namespace}" if in_system else ""
        return "" if (answer.get("status") or {}).get("allowed") else f"{verb} {resource}{where}"

    missing = await asyncio.gather(*(review(*each) for each in _READ))
    return [doctor.own_rights_check([each for each in missing if each])]


async def _accounts(cluster: Cluster) -> Mapping[str, Sequence[Part]]:
    """The accounts of the plain installation, or those of the one on Knative, where `watch` has its own."""
    on_knative = await _exists(cluster, cluster.system_namespace, "warmhook-watch", unknown=False)
    return EACH_ITS_OWN if on_knative else ONE_PROCESS


async def _exists(cluster: Cluster, namespace: str, name: str, *, unknown: bool = True) -> bool:
    """Whether a ServiceAccount exists; `unknown` if it cannot be read."""
    try:
        await cluster.kubernetes.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}", metadata_only=True)
    except NotFound:
        return False
    except KubernetesError:
        return unknown
    return True


def _attributes(right: Right, system_namespace: str) -> Object:
    if right.resource.startswith("/"):
        return {"nonResourceAttributes": {"verb": right.verb, "path": right.resource}}
    resource, _, subresource = right.resource.partition("/")
    found = {"verb": right.verb, "group": right.group, "resource": resource}
    if subresource:
        found["subresource"] = subresource
    if right.name:
        found["name"] = right.name
    if right.in_system:
        found["namespace"] = system_namespace
    return {"resourceAttributes": found}
