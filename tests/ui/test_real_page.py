"""The page of a real `web` follows a push to real agents, for a reader who signs in with a token."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import pytest
from playwright.async_api import async_playwright, expect

from devcluster.cluster import Plan, open_cluster
from devcluster.install import create_namespace, install
from devcluster.registry.images import build_image
from tests.real.programs import need, real_time
from tests.support.stack import SECRET, BaseStack, inherited, source_of, stack_folder
from tests.ui.browser import ARGUMENTS
from warmhook.ports import Object

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNTS: Final = "/api/v1/namespaces/shop/serviceaccounts"
RULES: Final = [
    {"apiGroups": ["warmhook.dev"], "resources": ["warmimages"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["warmhook-deliveries"], "verbs": ["get"]},
]


async def reader(stack: BaseStack) -> str:
    """A token of a ServiceAccount that may read what the page shows."""
    admin = stack.kubernetes
    await admin.create(ACCOUNTS, {"metadata": {"name": "reader"}})
    await admin.create(f"{RBAC}/clusterroles", {"metadata": {"name": "reader"}, "rules": RULES})
    binding: Object = {
        "metadata": {"name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "shop", "name": "reader"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
    }
    await admin.create(f"{RBAC}/clusterrolebindings", binding)
    token = await admin.create(f"{ACCOUNTS}/reader/token", {"spec": {"expirationSeconds": 3600}})
    return str(token["status"]["token"])


async def environ(name: str) -> dict[str, str]:
    return {"WARMHOOK_SERVE": "webhooks,events,ui", "WARMHOOK_SECRET": SECRET} if name == "web" else {}


@real_time
async def test_a_reader_signs_in_and_watches_a_push_until_all_nodes_are_warm() -> None:
    need("chromium", "chromium")
    with stack_folder() as folder:
        async with open_cluster(Plan(folder, folder / "kubeconfig", environ=environ), inherited()) as cluster:
            await cluster.start_api()
            await install(cluster.kubernetes)
            await create_namespace(cluster.kubernetes, "shop")
            await cluster.start_registry()
            await asyncio.gather(cluster.start_web([source_of(cluster.registry)]), cluster.join("node-1", "node-2"))
            stack = BaseStack(cluster, cluster.registry, system="warmhook-system", namespace="shop")
            async with stack.http:
                await stack.apply_policy({"push": [{"repository": f"{cluster.registry}/shop/**"}]})
                await watch(stack, await reader(stack))


async def watch(stack: BaseStack, token: str) -> None:
    """What the reader does, and sees."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        page = await (await browser.new_context()).new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        await page.goto(f"{stack.cluster.web_url}/ui/")
        await page.get_by_label("Token of the cluster").fill("a wrong one")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        # The browser itself writes answers such as 401 to the console.
        assert [each for each in complaints if "401" not in each and "403" not in each] == []
        complaints.clear()
        await page.get_by_label("Token of the cluster").fill(token)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator("header")).to_contain_text("system:serviceaccount:shop:reader")
        await expect(page.get_by_role("heading", name="No images yet")).to_be_visible()
        await expect(page.locator("#live")).to_have_text("live", timeout=30_000)

        image = await stack.push_to(stack.cluster.plan.registry_root, "shop/web", "v1", build_image(b"layer"))
        await expect(page.locator("main")).to_contain_text("100 % warm, 1 image ready", timeout=60_000)
        await page.get_by_role("link", name="shop/web:v1").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(image)
        steps = await page.locator(".timeline li").all_inner_texts()
        assert [step for step in steps if "last node" in step]
        assert re.search(r"\+\d", "".join(steps))
        await page.get_by_role("link", name="node-2").click()
        await expect(page.locator("tbody")).to_contain_text("shop/web:v1")

        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token of the cluster")).to_be_visible()
        assert complaints == []
        cookies: Any = await page.context.cookies()
        assert cookies == []
        await browser.close()
