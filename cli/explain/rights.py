"""Ask the API server what the ServiceAccounts of Warmhook may not do, of what an image needs to get onto a node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from adapters.kubernetes.access_reviews import action_of, review_access, service_account
from adapters.kubernetes.errors import KubernetesError, NotFound
from adapters.kubernetes.paths import service_accounts
from cli.cluster import Cluster
from cli.explain.objects import refused
from warmhook.explain_facts import Read, Unread
from warmhook.rights import RIGHTS, Part, account_of

_NEEDED: Final = frozenset({"nodes", "warmpolicies", "warmimages", "configmaps"})
"""Resources without whose rights no image gets onto a node."""
_PARTS: Final[Mapping[Part, str]] = {"receiver": "web", "handlers": "handlers", "agent": "agent"}
"""Each with its name for people."""


async def denied_rights(cluster: Cluster, agents_namespace: str) -> Read[Mapping[str, tuple[str, ...]]]:
    """By part what it may not do. A part whose ServiceAccount does not exist runs under another, and is left out."""
    namespaces = {part: agents_namespace if part == "agent" else cluster.system_namespace for part in _PARTS}
    parts = await asyncio.gather(*(_denied(cluster, namespaces[part], part) for part in _PARTS))
    denied: dict[str, tuple[str, ...]] = {}
    for name, found in zip(_PARTS.values(), parts, strict=True):
        if isinstance(found, Unread):
            return found
        if found:
            denied[name] = found
    return denied


async def _denied(cluster: Cluster, namespace: str, part: Part) -> tuple[str, ...] | Unread:
    account = account_of(part)
    try:
        await cluster.kubernetes.get(service_accounts(namespace, account), metadata_only=True)
    except NotFound:
        return ()
    except KubernetesError as error:
        return refused(error, "get", "serviceaccounts", namespace)
    user, system = service_account(namespace, account), cluster.system_namespace
    rights = [each for each in RIGHTS if each.part == part and each.resource in _NEEDED and not each.name]
    try:
        reviews = (review_access(cluster.kubernetes, user, action_of(each, system)) for each in rights)
        allowed = await asyncio.gather(*reviews)
    except KubernetesError as error:
        return refused(error, "create", "subjectaccessreviews")
    return tuple(f"{right.verb} {right.resource}" for right, may in zip(rights, allowed, strict=True) if not may)
