"""Ask the API server what the ServiceAccounts of Warmhook may not do, of what an image needs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from adapters.kubernetes.errors import KubernetesError, NotFound
from adapters.kubernetes.paths import service_accounts
from cli.cluster import Cluster
from cli.explain_objects import refused
from warmhook.explain_facts import Read, Unread

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_GROUP: Final = "warmhook.dev"


class _Right(NamedTuple):
    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    system: bool = False
    """In the namespace of Warmhook; otherwise in the cluster."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f"/{self.subresource}" if self.subresource else "")


_RIGHTS: Final[Mapping[str, tuple[_Right, ...]]] = {
    "web": (
        _Right("list", "warmpolicies", _GROUP),
        *(_Right(verb, "warmimages", _GROUP) for verb in ("list", "create", "patch")),
    ),
    "handlers": (
        _Right("list", "nodes"),
        _Right("list", "warmpolicies", _GROUP),
        *(_Right(verb, "warmimages", _GROUP) for verb in ("list", "create", "patch", "delete")),
        _Right("patch", "warmimages", _GROUP, "status"),
        *(_Right(verb, "configmaps", system=True) for verb in ("list", "create", "patch")),
    ),
    "agent": (
        _Right("get", "nodes"),
        *(_Right(verb, "configmaps", system=True) for verb in ("get", "list", "watch", "create", "patch")),
    ),
}
"""By part what it needs so that an image comes onto a node; the manifests give more."""


async def denied_rights(cluster: Cluster, agents_namespace: str) -> Read[Mapping[str, tuple[str, ...]]]:
    """By part what it may not do. A part whose ServiceAccount does not exist runs under another, and is left out."""
    system = cluster.system_namespace
    accounts = {"web": (system, "warmhook-receiver"), "handlers": (system, "warmhook-handlers")}
    accounts["agent"] = (agents_namespace, "warmhook-agent")
    parts = await asyncio.gather(*(_denied(cluster, *account, _RIGHTS[part]) for part, account in accounts.items()))
    for found in parts:
        if isinstance(found, Unread):
            return found
    return {part: found for part, found in zip(accounts, parts, strict=True) if not isinstance(found, Unread) and found}


async def _denied(cluster: Cluster, namespace: str, name: str, rights: tuple[_Right, ...]) -> tuple[str, ...] | Unread:
    try:
        await cluster.kubernetes.get(service_accounts(namespace, name))
    except NotFound:
        return ()
    except KubernetesError as error:
        return refused(error, "get", "serviceaccounts", namespace)
    user = f"system:serviceaccount:{namespace}:{name}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]

    async def is_allowed(right: _Right) -> bool:
        asked = {
            "verb": right.verb,
            "group": right.group,
            "resource": right.resource,
            "subresource": right.subresource,
            "namespace": cluster.system_namespace if right.system else "",
        }
        given = {name: text for name, text in asked.items() if text}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": given},
        }
        review = await cluster.kubernetes.create(_REVIEWS, body)
        return bool((review.get("status") or {}).get("allowed"))

    try:
        allowed = await asyncio.gather(*map(is_allowed, rights))
    except KubernetesError as error:
        return refused(error, "create", "subjectaccessreviews")
    return tuple(str(right) for right, may in zip(rights, allowed, strict=True) if not may)
