"""The page of real programs: in a process of its own, and by `warmhook ui`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
import yaml

from adapters.kubernetes import paths
from devcluster.programs import Program
from tests.e2e.stack import Options, Stack, open_stack
from tests.handlers.readers import RBAC, SEES_WARMIMAGES
from tests.real.programs import eventually, free_port, real_time
from warmhook.api import API_VERSION

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
REGISTRY = "127.0.0.1:5000"


async def start(stack: Stack, name: str, *arguments: str, environ: Mapping[str, str]) -> Program:
    """A program of the page, on the cluster of the stack."""
    given = {"KUBECONFIG": str(stack.cluster.plan.kubeconfig), "WARMHOOK_LOG": "json", "PORT": str(free_port())}
    return await stack.cluster.programs.start(name, (sys.executable, *arguments), stage=9, environ={**given, **environ})


async def serves(url: str, text: str, headers: Mapping[str, str] | None = None) -> None:
    """Wait until a page has the text."""

    async def answered() -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return text in (await client.get(url, headers=headers)).text
        except httpx.TransportError:
            return False

    await eventually(answered, what=f"{url} has {text!r}")


async def add_image(stack: Stack, name: str) -> None:
    body = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": {"name": name}}
    await stack.kubernetes.create(paths.warmimages_in("shop"), body | {"spec": {"image": f"{REGISTRY}/{name}:v1"}})


@real_time
async def test_a_process_of_the_page_shows_readers_their_part_and_ends_at_once_although_streams_are_open() -> None:
    async with open_stack(Options(REGISTRY), nodes=()) as stack:
        await add_image(stack, "web")
        await stack.register("node-1")
        role = {"metadata": {"name": "ada"}, "rules": [SEES_WARMIMAGES]}
        await stack.kubernetes.create(f"{RBAC}/namespaces/shop/roles", role)
        subject = {"kind": "ServiceAccount", "namespace": "shop", "name": "ada"}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ada"}
        binding = {"metadata": {"name": "ada"}, "subjects": [subject], "roleRef": reference}
        await stack.kubernetes.create(f"{RBAC}/namespaces/shop/rolebindings", binding)
        minted = await stack.kubernetes.create("/api/v1/namespaces/shop/serviceaccounts/ada/token", {"spec": {}})
        ada = {"authorization": f"Bearer {minted['status']['token']}"}

        port = free_port()
        page = await start(stack, "ui", "-m", "handlers", environ={"WARMHOOK_SERVE": "ui", "PORT": str(port)})
        url = f"http://127.0.0.1:{port}/ui/"
        await serves(url, "shop/web", ada)
        async with httpx.AsyncClient(headers=ada, timeout=20) as client:
            assert "node-1" not in (await client.get(f"{url}?by=node")).text
            assert (await client.get(url, headers={"authorization": "Bearer wrong"})).status_code == 401
            assert (await client.get(f"http://127.0.0.1:{port}/webhooks/registry")).status_code == 404
            async with client.stream("GET", f"{url}changes") as stream:
                lines = stream.aiter_lines()
                assert await anext(lines) == "event: changed"
                await add_image(stack, "more")
                async for line in lines:
                    if line == "event: changed":
                        break
                began = asyncio.get_running_loop().time()
                assert await stack.stop(page) == 0
                assert asyncio.get_running_loop().time() - began < 4
        assert "Traceback" not in page.output()
        assert minted["status"]["token"] not in page.output()


@real_time
async def test_without_tokens_the_page_is_on_a_port_of_loopback_only() -> None:
    async with open_stack(Options(REGISTRY), nodes=()) as stack:
        await add_image(stack, "web")
        port, own = free_port(), free_port()
        given = {"WARMHOOK_SERVE": "ui", "WARMHOOK_UI_ACCESS": "loopback", "WARMHOOK_UI_PORT": str(own)}
        page = await start(stack, "ui", "-m", "handlers", environ=given | {"PORT": str(port)})
        await serves(f"http://localhost:{own}/ui/", "shop/web")
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/ui/")).status_code == 404
            assert (await client.get(f"http://127.0.0.1:{own}/ui/", headers={"host": "evil"})).status_code == 421
        for address in {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
            if not str(address).startswith("127."):
                with socket.socket() as other:
                    assert other.connect_ex((address, own)) != 0
        taken = await start(stack, "second", "-m", "handlers", environ=given)
        assert await asyncio.wait_for(taken.process.wait(), 20) == 2
        assert f"WARMHOOK_UI_PORT {own} cannot be opened" in taken.output()
        assert await stack.stop(page) == 0


@real_time
async def test_warmhook_ui_says_where_the_page_is_and_ends_with_ctrl_c() -> None:
    async with open_stack(Options(REGISTRY), nodes=()) as stack:
        await add_image(stack, "web")
        page = await start(stack, "command", "-m", "cli.main", "ui", "--port", "0", environ={"PYTHONUNBUFFERED": "1"})

        async def told() -> bool:
            return "http://" in page.output()

        await eventually(told, what="the address is printed")
        url = page.output().partition("   ")[0]
        await serves(url, "shop/web")
        page.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(page.process.wait(), 20) == 0
        assert page.output().count("\n") == 1


@real_time
async def test_warmhook_ui_names_the_rights_that_are_missing() -> None:
    async with open_stack(Options(REGISTRY), nodes=()) as stack:
        minted = await stack.kubernetes.create("/api/v1/namespaces/shop/serviceaccounts/bob/token", {"spec": {}})
        kubeconfig = stack.cluster.plan.kubeconfig.read_text()
        other = stack.folder / "bob"
        other.write_text(_with_token(kubeconfig, minted["status"]["token"]))
        command = (sys.executable, "-m", "cli.main", "ui", "--kubeconfig", str(other))
        environ = {**os.environ, "KUBECONFIG": ""}
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, out) == (1, b"")
        assert b"you may not list nodes" in err
        assert err.count(b"\n") == 1


def _with_token(kubeconfig: str, bearer: str) -> str:
    content = yaml.safe_load(kubeconfig)
    content["users"] = [{**user, "user": {"token": bearer}} for user in content["users"]]
    changed: str = yaml.safe_dump(content)
    return changed
