"""The creation of a Pod goes through mutating webhooks as with a real API server."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters.certificates import Pair, make_pair
from devcluster.apiserver import ApiServer
from devcluster.apiserver.app import application
from tests.real.programs import eventually
from tests.support.cases import as_test
from warmhook.ports import Object

pytestmark = pytest.mark.slow

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
PODS = "/api/v1/namespaces/default/pods"
Answer = Callable[[Object], Object | None]
"""The `response` of a webhook to a request, without its uid; `None` is status 500."""


def allow(_request: Object) -> Object:
    return {"allowed": True}


def labelled(name: str) -> Answer:
    """A webhook that adds a label whenever it is called."""

    def answer(request: Object) -> Object:
        labels = request["object"]["metadata"].get("labels")
        steps = [] if labels else [{"op": "add", "path": "/metadata/labels", "value": {}}]
        steps.append({"op": "add", "path": f"/metadata/labels/{name}", "value": "yes"})
        patch = base64.b64encode(json.dumps(steps).encode()).decode()
        return {"allowed": True, "patchType": "JSONPatch", "patch": patch}

    return answer


class Site:
    """An API server, and webhooks over TLS that it may call."""

    def __init__(self, api: httpx.AsyncClient, port: int, authority: bytes) -> None:
        self.api = api
        self.port = port
        self.authority = authority
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, Object]] = []

    async def answer(self, request: Request) -> Response:
        name, review = request.path_params["name"], json.loads(await request.body())
        assert review["apiVersion"] == "admission.k8s.io/v1"
        self.requests.append((name, review["request"]))
        said = self.answers[name](review["request"])
        if said is None:
            return Response(status_code=500)
        body = {**review, "response": {"uid": review["request"]["uid"], **said}}
        del body["request"]
        return Response(json.dumps(body), media_type="application/json")

    def hook(self, name: str, answer: Answer = allow, **more: Any) -> Object:
        self.answers[name] = answer
        return {
            "name": f"{name}.example.com",
            "clientConfig": {
                "url": f"https://127.0.0.1:{self.port}/{name}",
                "caBundle": base64.b64encode(self.authority).decode(),
            },
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "NoneOnDryRun",
            **more,
        }

    async def install(self, *hooks: Object, name: str = "c") -> httpx.Response:
        return await self.api.post(CONFIGURATIONS, json={"metadata": {"name": name}, "webhooks": list(hooks)})

    async def create(self, query: str = "", **metadata: Any) -> httpx.Response:
        pod = {
            "metadata": {"generateName": "web-", **metadata},
            "spec": {"containers": [{"name": "a", "image": "nginx"}]},
        }
        return await self.api.post(PODS + query, json=pod)

    def names(self) -> list[str]:
        return [name for name, _ in self.requests]


def written(folder: Path, pair: Pair) -> tuple[str, str]:
    """The files of certificate and key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    return str(certificate), str(key)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    pair = make_pair(["127.0.0.1", "hooks.default.svc"], datetime.now(UTC))
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory(prefix="wh") as folder:
        port = listener.getsockname()[1]
        server = ApiServer(lambda: datetime.now(UTC), Random(1))
        app = application(server, services={"hooks.default": ("127.0.0.1", port)})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as api:
            here = Site(api, port, pair.authority)
            certificate, key = written(Path(folder), pair)
            hooks = uvicorn.Server(
                uvicorn.Config(
                    Starlette(routes=[Route("/{name}", here.answer, methods=["POST"])]),
                    log_config=None,
                    lifespan="off",
                    ssl_certfile=certificate,
                    ssl_keyfile=key,
                )
            )
            task = asyncio.create_task(hooks.serve(sockets=[listener]), name="webhooks")
            await eventually(lambda: hooks.started, what="the webhooks are served")
            try:
                yield here
            finally:
                hooks.should_exit = True
                await task


def on_a_site(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a case that needs a site."""

    def run(case: Callable[[Site], Awaitable[None]]) -> None:
        async def work() -> None:
            async with site() as here:
                await case(here)

        asyncio.run(work())

    return as_test(case, run)


@on_a_site
async def test_a_patch_is_applied_and_the_review_is_that_of_a_real_server(here: Site) -> None:
    assert (await here.install(here.hook("one", labelled("one")))).status_code == 201
    created = await here.create(labels={"app": "web"})
    assert created.status_code == 201, created.text
    pod = created.json()
    assert pod["metadata"]["labels"] == {"app": "web", "one": "yes"}
    assert pod["metadata"]["name"].startswith("web-")
    assert pod["status"]["phase"] == "Pending"
    ((_, request),) = here.requests
    assert request["operation"] == "CREATE"
    assert (request["namespace"], request["dryRun"], request["oldObject"]) == ("default", False, None)
    seen = request["object"]
    assert seen["metadata"].keys() == {"generateName", "labels", "namespace", "managedFields"}
    assert seen["spec"]["restartPolicy"] == "Always"
    assert "name" not in request


@on_a_site
async def test_a_request_that_creates_no_pod_calls_no_webhook(here: Site) -> None:
    await here.install(here.hook("one"))
    await here.api.post("/api/v1/namespaces/default/configmaps", json={"metadata": {"name": "x"}})
    await here.api.get(PODS)
    assert (await here.api.post(PODS, content=b"{")).status_code == 400
    assert (await here.api.post("/api/v1/namespaces/none/pods", json={"metadata": {"name": "x"}})).status_code == 404
    assert here.requests == []


@pytest.mark.parametrize(
    ("more", "metadata"),
    [
        ({"namespaceSelector": {"matchLabels": {"x": "y"}}}, {}),
        (
            {
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["default"]}
                    ]
                }
            },
            {},
        ),
        ({"objectSelector": {"matchLabels": {"app": "web"}}}, {"labels": {"app": "db"}}),
        ({"rules": [{"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}, {}),
    ],
)
@on_a_site
async def test_a_webhook_that_does_not_match_is_not_called(here: Site, more: Object, metadata: Object) -> None:
    installed = await here.install(here.hook("one", **more), here.hook("two"))
    assert installed.status_code == 201, installed.text
    assert (await here.create(**metadata)).status_code == 201
    assert "one" not in here.names()
    assert (await here.create()).status_code == 201
    assert "two" in here.names()


@on_a_site
async def test_the_failure_policy_decides_what_a_failed_call_means(here: Site) -> None:
    broken: dict[str, Answer] = {
        "status": lambda _: None,
        "uid": lambda _: {"allowed": True, "uid": "another"},
        "patch": lambda _: {"allowed": True, "patchType": "JSONPatch", "patch": "////"},
        "kind": lambda _: {"allowed": True, "patchType": "Merge", "patch": "e30="},
    }
    for name, answer in broken.items():
        await here.install(here.hook(name, answer, failurePolicy="Fail"))
        refused = await here.create()
        assert refused.status_code == 500, name
        assert f'failed calling webhook "{name}.example.com"' in refused.json()["message"]
        await here.api.delete(f"{CONFIGURATIONS}/c")
        await here.install(here.hook(name, answer, failurePolicy="Ignore"))
        assert (await here.create()).status_code == 201
        await here.api.delete(f"{CONFIGURATIONS}/c")


@on_a_site
async def test_a_webhook_whose_authority_is_not_in_the_bundle_is_not_called(here: Site) -> None:
    here.authority = make_pair(["127.0.0.1"], datetime.now(UTC)).authority
    await here.install(here.hook("one", failurePolicy="Fail"))
    assert (await here.create()).status_code == 500
    assert here.requests == []


@on_a_site
async def test_a_denial_is_passed_on(here: Site) -> None:
    await here.install(here.hook("one", lambda _: {"allowed": False, "status": {"message": "not today"}}))
    denied = await here.create()
    assert denied.status_code == 403
    assert denied.json()["message"] == 'admission webhook "one.example.com" denied the request: not today'


@on_a_site
async def test_a_webhook_is_reinvoked_if_a_later_one_changed_the_pod(here: Site) -> None:
    await here.install(
        here.hook("one", reinvocationPolicy="IfNeeded"),
        here.hook("two"),
        here.hook("three", labelled("three"), reinvocationPolicy="IfNeeded"),
    )
    assert (await here.create()).json()["metadata"]["labels"] == {"three": "yes"}
    assert here.names() == ["one", "two", "three", "one"]
    assert here.requests[-1][1]["object"]["metadata"]["labels"] == {"three": "yes"}


@on_a_site
async def test_a_dry_run_calls_webhooks_and_stores_nothing(here: Site) -> None:
    await here.install(here.hook("one", labelled("one")))
    created = await here.create("?dryRun=All")
    assert created.json()["metadata"]["labels"] == {"one": "yes"}
    assert here.requests[0][1]["dryRun"] is True
    assert here.requests[0][1]["options"]["dryRun"] == ["All"]
    assert (await here.api.get(PODS)).json()["items"] == []


@on_a_site
async def test_a_service_is_reached_where_it_is_served(here: Site) -> None:
    hook = here.hook("one", labelled("one"))
    hook["clientConfig"] = {
        "service": {"name": "hooks", "namespace": "default", "path": "/one"},
        "caBundle": hook["clientConfig"]["caBundle"],
    }
    await here.install(hook)
    assert (await here.create()).json()["metadata"]["labels"] == {"one": "yes"}
