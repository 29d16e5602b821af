"""Ask the API server what the programs and the caller may do."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from adapters.kubernetes import paths
from adapters.kubernetes.access_reviews import Action, action_of, review_access, review_own_access, service_account
from adapters.kubernetes.errors import KubernetesError, NotFound
from adapters.kubernetes.webhook_secret import SECRET
from cli.cluster import Cluster
from warmhook import doctor
from warmhook.api import GROUP
from warmhook.checks import Check
from warmhook.leader_election import LEASE_NAME
from warmhook.rights import AGENT, EACH_ITS_OWN, ONE_PROCESS, PAGE, RIGHTS, Part, Right, account_of

_AT_ONCE: Final = 8


async def rights(cluster: Cluster, _now: datetime, *, agents: str) -> list[Check]:
    """What the ServiceAccounts of the programs may do."""
    own = await _accounts(cluster)
    accounts = {(cluster.system_namespace, name): parts for name, parts in own.items()}
    accounts |= {(agents, name): parts for name, parts in AGENT.items()}
    absent = [f"{namespace}/{name}" for namespace, name in accounts if not await _exists(cluster, namespace, name)]
    missing: defaultdict[str, list[Right]] = defaultdict(list)
    problems: list[str] = []
    turns = asyncio.Semaphore(_AT_ONCE)

    async def review(namespace: str, name: str, right: Right) -> None:
        action = action_of(right, cluster.system_namespace)
        async with turns:
            try:
                if not await review_access(cluster.kubernetes, service_account(namespace, name), action):
                    missing[f"{namespace}/{name}"].append(right)
            except KubernetesError as error:
                problems.append(str(error))

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
    system = cluster.system_namespace
    reads = (
        Action("list", "nodes"),
        Action("list", "warmpolicies", GROUP),
        Action("list", "warmimages", GROUP),
        Action("list", "configmaps", namespace=system),
        Action("get", "secrets", namespace=system, name=SECRET),
        Action("get", "leases", "coordination.k8s.io", system, LEASE_NAME),
        Action("list", "deployments", "apps", system),
    )
    allowed = await asyncio.gather(*(review_own_access(cluster.kubernetes, read) for read in reads))
    missing = [read for read, may in zip(reads, allowed, strict=True) if not may]
    names = [f"{read.verb} {read.resource}" + (f" in {system}" if read.namespace else "") for read in missing]
    return [doctor.own_rights_check(names)]


async def _accounts(cluster: Cluster) -> Mapping[str, Sequence[Part]]:
    """The accounts of the plain installation, or of the one on Knative, where `watch` has its own; that of the page."""
    namespace = cluster.system_namespace
    on_knative = await _exists(cluster, namespace, account_of("watch"), unknown=False)
    with_page = await _exists(cluster, namespace, account_of("ui"), unknown=False)
    return {**(EACH_ITS_OWN if on_knative else ONE_PROCESS), **(PAGE if with_page else {})}


async def _exists(cluster: Cluster, namespace: str, name: str, *, unknown: bool = True) -> bool:
    """Whether a ServiceAccount exists; `unknown` if it cannot be read."""
    try:
        await cluster.kubernetes.get(paths.service_accounts(namespace, name), metadata_only=True)
    except NotFound:
        return False
    except KubernetesError:
        return unknown
    return True
