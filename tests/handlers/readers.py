"""Read the page in tests: over an embedded API server that reviews tokens and rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from adapters.kubernetes.client import Kubernetes
from handlers.settings import Settings, UiAccess, UiSettings
from handlers.ui.page import Page
from tests.handlers.world import NAMESPACE, World
from tests.support.instant import until
from warmhook.ports import Object

RBAC = "/apis/rbac.authorization.k8s.io/v1"
SEES_WARMIMAGES = {"apiGroups": ["warmhook.dev"], "resources": ["warmimages"], "verbs": ["list"]}
SEES_NODES = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}
SEES_DELIVERIES = {
    "apiGroups": [""],
    "resources": ["configmaps"],
    "resourceNames": ["warmhook-deliveries"],
    "verbs": ["get"],
}


async def at_once(make: Callable[..., str], *values: Any) -> str:
    """Make a page without a thread, which no instant test may wait for."""
    return make(*values)


@asynccontextmanager
async def page(
    world: World, *, access: UiAccess = "token", wait: bool = True, offload: Any = at_once, **ui: Any
) -> AsyncIterator[Page]:
    """A page that follows the world; with `wait` it has seen everything."""
    settings = Settings(serve=frozenset({"ui"}), ui=UiSettings(access=access, **ui))
    opened = Page(Kubernetes(world.transport), settings, world.clock, offload)
    task = asyncio.create_task(opened.run(), name="page")
    try:
        if wait:
            await until(lambda: opened.cache.listed.is_set() and opened.cache.inventory.deliveries is not None)
        yield opened
    finally:
        task.cancel()
        await asyncio.wait([task])


def browser(opened: Page, host: str = "127.0.0.1:8081", **headers: str) -> httpx.AsyncClient:
    """A client that keeps cookies."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    transport = httpx.ASGITransport(opened.application())
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=given)


async def grant(world: World, account: str, rule: Object, namespace: str = "", owner: str = "people") -> str:
    """Let a ServiceAccount of the namespace `owner` do this, there or everywhere; returns the path of the binding."""
    name = f"{account}-{rule['resources'][0]}"
    inside = f"{RBAC}/namespaces/{namespace}" if namespace else RBAC
    role, binding = ("roles", "rolebindings") if namespace else ("clusterroles", "clusterrolebindings")
    kind = "Role" if namespace else "ClusterRole"
    await world.admin.create(f"{inside}/{role}", {"metadata": {"name": name}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "namespace": owner, "name": account}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    await world.admin.create(
        f"{inside}/{binding}", {"metadata": {"name": name}, "subjects": [subject], "roleRef": reference}
    )
    return f"{inside}/{binding}/{name}"


async def token(world: World, account: str, seconds: int = 3600, owner: str = "people") -> str:
    """A token of a ServiceAccount of the namespace `owner`."""
    path = f"/api/v1/namespaces/{owner}/serviceaccounts/{account}/token"
    answer = await world.admin.create(path, {"spec": {"expirationSeconds": seconds}})
    found: str = answer["status"]["token"]
    return found


async def deliveries(world: World, **data: str) -> None:
    """What receivers wrote."""
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/warmhook-deliveries"
    await world.admin.patch(path, {"data": data})
