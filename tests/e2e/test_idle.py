"""An idle node costs the API server one open watch."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from devcluster import containerd
from devcluster.apiserver.__main__ import kubeconfig
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image
from devcluster.registry.serve import serve_app, serve_registry
from tests.e2e.stack import Options, Stack, open_stack
from tests.real.programs import free_port, real_time
from warmhook.node_report import report_name

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

APP = incompressible_image(0.1, "idle", platform=f"linux/{architecture()}")
TRACE = '[debug]\nlevel = "trace"\n'
CHECKS = 5


@contextlib.asynccontextmanager
async def counting_proxy(port: int, requests: list[tuple[str, str, bytes]]) -> AsyncIterator[str]:
    """Forwards to the API server at `port`, and notes method, path with query, and body; gives its own address."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None) as client:

        async def forward(request: Request) -> Response:
            body = await request.body()
            path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            requests.append((request.method, path, body))
            headers = [(name, value) for name, value in request.headers.items() if name != "host"]
            asked = client.build_request(request.method, path, headers=headers, content=body)
            answer = await client.send(asked, stream=True)
            kept = {name: value for name, value in answer.headers.items() if name != "transfer-encoding"}
            return StreamingResponse(answer.aiter_raw(), answer.status_code, kept)

        methods = ["GET", "POST", "PATCH", "DELETE"]
        app = Starlette(routes=[Route("/{path:path}", forward, methods=methods)])
        async with serve_app(app, name="proxy") as host:
            yield host


def checks(stack: Stack) -> int:
    """How often the runtime was asked what it has."""
    return stack.runtimes["node-1"].output().count("ListImages with filter")


@real_time
async def test_an_agent_with_nothing_to_do_asks_its_runtime_and_leaves_the_api_server_alone(folder: Path) -> None:
    port, requests = free_port(), list[tuple[str, str, bytes]]()
    async with serve_registry(folder) as registry, counting_proxy(port, requests) as proxy:
        (folder / "kubeconfig").write_text(kubeconfig(int(proxy.rpartition(":")[2])))
        agent = {"WARMHOOK_CHECK_SECONDS": "1", "KUBECONFIG": str(folder / "kubeconfig")}
        async with open_stack(Options(registry.host, api_port=port, agent=agent), nodes=()) as stack:
            containerd.prepare(stack.folder / "node-1")
            with (stack.folder / "node-1" / "config.toml").open("a") as config:
                config.write(TRACE)
            await stack.cluster.join("node-1")
            await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
            name = await stack.push(registry, "shop/app", "1", APP)
            await stack.becomes(name, "1/1")
            before, known = checks(stack), len(requests)
            await stack.eventually(
                lambda: checks(stack) >= before + CHECKS, what="the agent asks its runtime again and again"
            )
            assert [request for request in requests[known:] if not is_seen(request)] == []
            # The watch that was opened first is still the only one.
            assert sum("watch=true" in path for _, path, _ in requests) == 1


def is_seen(request: tuple[str, str, bytes]) -> bool:
    """Whether an agent says only that it is alive."""
    method, path, body = request
    return method == "PATCH" and path.endswith(report_name("node-1")) and b"warmhook.dev/warm" not in body
