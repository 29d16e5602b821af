"""Creating a Pod warms its images wherever more such Pods can land, over TLS, and the Pod does not wait for it."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from devcluster.admission import CONFIGURATIONS, configuration
from tests.e2e.stack import NAMESPACE, SYSTEM, Options, Stack, open_stack
from tests.real.programs import free_port, need, real_time
from warmhook.ports import Object

pytestmark = pytest.mark.e2e

HOST = f"warmhook-admission.{SYSTEM}.svc"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
NODES = ("node-1", "node-2", "node-3", "node-4", "node-5")


def by_service() -> Object:
    """As the manifests have it: the API server calls a Service."""
    made = configuration(0)
    made["webhooks"][0]["clientConfig"] = {"service": {"name": "warmhook-admission", "namespace": SYSTEM}}
    return made


def pod(image: str, name: str = "web-1", **spec: object) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"warm": "true"}}
    containers = [{"name": "app", "image": image}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}


@asynccontextmanager
async def admitting() -> AsyncIterator[tuple[Stack, int]]:
    """Everything but agents, with admission installed and served; the port of TLS."""
    port = free_port()
    options = Options("127.0.0.1:1", web={"WARMHOOK_TLS_PORT": str(port)})
    service = ("--service", f"warmhook-admission.{SYSTEM}=127.0.0.1:{port}")
    async with open_stack(options, nodes=(), api_arguments=service) as stack:
        await stack.register(*NODES)
        await stack.kubernetes.create(CONFIGURATIONS, by_service())
        await stack.cluster.programs.prints(stack.web, '"event": "certificate-used"')
        await stack.apply_policy({"pods": {"selector": {"matchLabels": {"warm": "true"}}}})
        yield stack, port


async def images_by_node(stack: Stack) -> dict[str, list[str]]:
    found = {}
    for name in NODES:
        desired = await stack.desired(name)
        if desired is not None and desired.get("data"):
            found[name] = sorted(json.loads(line)["i"] for line in desired["data"].values())
    return found


async def kubectl(stack: Stack, obj: Object) -> None:
    need("kubectl", "kubectl")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(obj, file)
        file.flush()
        kubeconfig = ("--kubeconfig", str(stack.cluster.plan.kubeconfig))
        command = ("kubectl", *kubeconfig, "create", "-f", file.name, "--validate=false")
        process = await asyncio.create_subprocess_exec(*command)
        assert await asyncio.wait_for(process.wait(), 30) == 0


@pytest.mark.parametrize("by", ["client", "kubectl"])
@real_time
async def test_creating_a_pod_warms_its_images_on_the_feasible_nodes_only(by: str) -> None:
    if by == "kubectl":
        need("kubectl", "kubectl")
    async with admitting() as (stack, _):
        patches: dict[str, Object] = {
            "node-2": {"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}},
            "node-3": {"spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]}},
            "node-4": {"spec": {"unschedulable": True}},
            "node-5": {"metadata": {"labels": {"pool": "db"}}},
        }
        for name, patch in patches.items():
            await stack.kubernetes.patch(paths.node(name), patch)
        tolerations = [{"key": "gpu", "operator": "Exists"}]
        made = pod("127.0.0.1:1/shop/app:v1", nodeSelector={"pool": "web"}, tolerations=tolerations)
        if by == "client":
            await stack.kubernetes.create(PODS, made)
        else:
            await kubectl(stack, made)
        wanted = {name: ["127.0.0.1:1/shop/app:v1"] for name in ("node-1", "node-2")}

        async def agree() -> bool:
            return await images_by_node(stack) == wanted

        await stack.eventually(agree, what="the line is on both nodes that can take more of them")
        await stack.kubernetes.patch(paths.node("node-4"), {"spec": {"unschedulable": None}})
        wanted["node-4"] = ["127.0.0.1:1/shop/app:v1"]
        await stack.eventually(agree, what="the line is on the node that takes Pods again")

        # Of others nothing is asked.
        other = pod("127.0.0.1:1/shop/other:v1", "plain")
        del other["metadata"]["labels"]
        await stack.kubernetes.create(PODS, other)
        metrics = (await stack.http.get(f"http://127.0.0.1:{stack.options.web_port}/metrics")).text
        assert 'warmhook_admissions_total{patched="no",reason="",result="queued"} 2.0' in metrics
        assert len(await stack.warmimages()) == 1


async def told(kubernetes: Kubernetes) -> tuple[str, str]:
    """What `watch` told the API server: path and authorities."""
    found = await kubernetes.get(paths.mutating_webhooks("warmhook"))
    client = found["webhooks"][0]["clientConfig"]
    return client["service"]["path"], base64.b64decode(client["caBundle"]).decode()


@real_time
async def test_every_review_is_answered_while_the_api_server_is_down_and_what_it_saw_before_is_warmed() -> None:
    async with admitting() as (stack, port):
        path, authorities = await told(stack.kubernetes)
        context = ssl.create_default_context(cadata=authorities)
        await stack.api.kill()
        made = pod("127.0.0.1:1/shop/app:v1")
        request = {
            "uid": "u",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "namespace": NAMESPACE,
        }
        turns = asyncio.Semaphore(20)
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=10) as client:

            async def ask(number: int) -> tuple[int, bool]:
                named = made | {"metadata": made["metadata"] | {"name": f"p-{number}"}}
                body = {
                    "apiVersion": "admission.k8s.io/v1",
                    "request": request | {"object": named, "uid": str(number)},
                }
                async with turns:
                    answer = await client.post(
                        f"https://127.0.0.1:{port}{path}",
                        json=body,
                        headers={"host": HOST},
                        extensions={"sni_hostname": HOST},
                    )
                said = answer.json()["response"]
                return answer.status_code, said["allowed"] and said["uid"] == str(number)

            assert set(await asyncio.gather(*map(ask, range(1500)))) == {(200, True)}
        await stack.start_api()
        await stack.kubernetes.create(PODS, made)

        async def warmed() -> bool:
            return set(await images_by_node(stack)) == set(NODES)

        await stack.eventually(warmed, what="the line is on every node", seconds=120)


def keys_in_files() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("warmhook-*/tls.key"))


@real_time
async def test_nothing_is_left_of_the_key_in_files_or_logs() -> None:
    async with admitting() as (stack, _):
        assert keys_in_files() == []
        assert "PRIVATE KEY" not in stack.web.output()
