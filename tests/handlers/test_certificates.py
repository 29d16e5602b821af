"""Is the certificate of admission there, renewed in time, trusted before it is used, and taken without a restart?"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from adapters.certificates import LIFETIME, NotACertificate, make_pair, still_valid, wants_rotation
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes, NotFound
from devcluster.apiserver import ApiServer, InProcessTransport
from handlers.tls import TlsServer, serve_tls
from handlers.watch.certificates import SECRET, Certificates
from tests.handlers.world import NAMESPACE, START, World, in_world
from tests.real.programs import eventually
from warmhook.ports import Object

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
HOST = "warmhook-web.warmhook-system.svc"


def configuration(annotations: dict[str, str] | None = None) -> Object:
    service = {"service": {"name": "warmhook-web", "namespace": NAMESPACE, "path": "/admission/pods"}}
    hook = {
        "name": "pods.warmhook.dev",
        "clientConfig": service,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "NoneOnDryRun",
        "failurePolicy": "Ignore",
        "timeoutSeconds": 1,
    }
    return {"metadata": {"name": "warmhook", "annotations": annotations or {}}, "webhooks": [hook]}


async def secret(kubernetes: Kubernetes) -> dict[str, bytes]:
    data = (await kubernetes.get(paths.secrets(NAMESPACE, SECRET)))["data"]
    return {name: base64.b64decode(text) for name, text in data.items()}


async def bundle(kubernetes: Kubernetes) -> bytes:
    found = await kubernetes.get(paths.mutating_webhooks("warmhook"))
    return base64.b64decode(found["webhooks"][0]["clientConfig"].get("caBundle", ""))


def certificates(world: World, ahead: timedelta = timedelta(0)) -> Certificates:
    return Certificates(world.admin, NAMESPACE, lambda: world.now() + ahead, asyncio.sleep)


def test_it_is_made_and_trusted_once_admission_is_installed() -> None:
    async def case(world: World) -> None:
        async with world.watching():
            await asyncio.sleep(60)
            with pytest.raises(NotFound):
                await secret(world.admin)
            await world.admin.create(CONFIGURATIONS, configuration())
            await asyncio.sleep(60)
            held = await secret(world.admin)
            assert await bundle(world.admin) == held["ca.crt"]
            assert not wants_rotation(held["tls.crt"], [HOST, f"{HOST}.cluster.local"], world.now())
            version = (await world.admin.get(paths.secrets(NAMESPACE, SECRET)))["metadata"]["resourceVersion"]
            await asyncio.sleep(3600)
            again = (await world.admin.get(paths.secrets(NAMESPACE, SECRET)))["metadata"]["resourceVersion"]
            assert again == version

    in_world(case)


def test_it_is_renewed_when_two_thirds_of_its_life_are_over_and_the_old_authority_stays_trusted() -> None:
    async def case(world: World) -> None:
        await world.admin.create(CONFIGURATIONS, configuration())
        await certificates(world).look()
        first = await secret(world.admin)
        await certificates(world, LIFETIME * 0.6).look()
        assert await secret(world.admin) == first
        await certificates(world, LIFETIME * 0.7).look()
        second = await secret(world.admin)
        assert second["tls.crt"] != first["tls.crt"]
        assert first["ca.crt"] in second["ca.crt"]
        assert await bundle(world.admin) == second["ca.crt"]
        # By the next time the oldest has ended.
        await certificates(world, LIFETIME * 1.4).look()
        assert first["ca.crt"] not in await bundle(world.admin)
        assert (await bundle(world.admin)).count(b"BEGIN") == 2

    in_world(case)


def test_it_is_trusted_before_it_is_used() -> None:
    async def case(world: World) -> None:
        await world.admin.create(CONFIGURATIONS, configuration())
        kubernetes = Kubernetes(world.transport)
        await Certificates(kubernetes, NAMESPACE, world.now, asyncio.sleep).look()
        assert [path.rpartition("/")[2] for _, path in world.writes()] == ["warmhook", "secrets"]

    in_world(case)


def test_a_broken_secret_a_foreign_bundle_or_another_host_is_put_right() -> None:
    async def case(world: World) -> None:
        await world.admin.create(CONFIGURATIONS, configuration())
        await certificates(world).look()
        good = await bundle(world.admin)
        hooks = configuration()["webhooks"]
        await world.admin.patch(paths.mutating_webhooks("warmhook"), {"webhooks": hooks})
        await certificates(world).look()
        assert await bundle(world.admin) == good
        await world.admin.patch(paths.secrets(NAMESPACE, SECRET), {"data": {"tls.crt": "AAAA", "tls.key": "%"}})
        await certificates(world).look()
        assert wants_rotation((await secret(world.admin))["tls.crt"], [HOST], world.now()) is False
        hooks[0]["clientConfig"] = {"url": "https://127.0.0.1:8443/admission/pods"}
        await world.admin.patch(paths.mutating_webhooks("warmhook"), {"webhooks": hooks})
        await certificates(world).look()
        assert not wants_rotation((await secret(world.admin))["tls.crt"], ["127.0.0.1"], world.now())

    in_world(case)


def test_where_cert_manager_does_it_nothing_is_written() -> None:
    async def case(world: World) -> None:
        annotations = {"cert-manager.io/inject-ca-from": "warmhook-system/warmhook"}
        await world.admin.create(CONFIGURATIONS, configuration(annotations))
        await Certificates(Kubernetes(world.transport), NAMESPACE, world.now, asyncio.sleep).look()
        assert world.writes() == []

    in_world(case)


def test_who_does_not_lead_writes_nothing() -> None:
    async def case(world: World) -> None:
        await world.admin.create(CONFIGURATIONS, configuration())
        kubernetes = Kubernetes(world.transport)
        await Certificates(kubernetes, NAMESPACE, world.now, asyncio.sleep, lambda: False).look()
        assert world.writes() == []

    in_world(case)


def test_what_is_no_certificate_is_said_to_be_none() -> None:
    with pytest.raises(NotACertificate):
        wants_rotation(b"-----BEGIN NOTHING-----", [], START)
    assert still_valid(b"", START) == b""


# --- handshakes ------------------------------------------------------------------------------------------------------


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.scheme)


def client(authorities: bytes) -> httpx.AsyncClient:
    context = ssl.create_default_context(cadata=authorities.decode())
    return httpx.AsyncClient(verify=context, trust_env=False, timeout=5)


class Site:
    """A TLS server over an embedded cluster, with real sockets and real time."""

    def __init__(self, listener: socket.socket) -> None:
        self.looks = 0
        self.kubernetes = Kubernetes(InProcessTransport(ApiServer(lambda: START, Random(1))))
        config = uvicorn.Config(Starlette(routes=[Route("/", hello)]), log_config=None, lifespan="off")
        self.server = TlsServer(config)
        self.listener = listener
        self.url = f"https://127.0.0.1:{listener.getsockname()[1]}/"

    async def look_soon(self, _seconds: float) -> None:
        """Looks for another certificate often."""
        self.looks += 1
        await asyncio.sleep(0.01)

    async def put(self, **contents: bytes) -> None:
        data = {name: base64.b64encode(text).decode() for name, text in contents.items()}
        body = {"metadata": {"name": SECRET}, "data": data}
        try:
            await self.kubernetes.patch(paths.secrets(NAMESPACE, SECRET), {"data": data})
        except NotFound:
            await self.kubernetes.create(paths.secrets_in(NAMESPACE), body)


def with_site(case: Any) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            site = Site(listener)
            await site.kubernetes.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            serving = serve_tls(site.server, listener, site.kubernetes, NAMESPACE, sleep=site.look_soon)
            task = asyncio.create_task(serving, name="serve TLS")
            try:
                await case(site)
                site.server.should_exit = True
                await asyncio.wait_for(task, 5)
            finally:
                task.cancel()
                await asyncio.wait({task})

    asyncio.run(run())


async def greets(site: Site, authorities: bytes) -> bool:
    try:
        async with client(authorities) as asking:
            return (await asking.get(site.url)).text == "https"
    except httpx.TransportError:
        return False


def test_new_handshakes_see_the_new_certificate_and_open_connections_go_on() -> None:
    async def case(site: Site) -> None:
        now = datetime.now(UTC)
        first, second = make_pair(["127.0.0.1"], now), make_pair(["127.0.0.1"], now)
        await site.put(**{"tls.crt": first.certificate, "tls.key": first.key})
        await eventually(lambda: greets(site, first.authority), what="the first certificate is shown")
        assert not await greets(site, second.authority)
        async with client(first.authority) as open_since:
            assert (await open_since.get(site.url)).text == "https"
            await site.put(**{"tls.crt": second.certificate, "tls.key": second.key})
            await eventually(lambda: greets(site, second.authority), what="the second certificate is shown")
            assert not await greets(site, first.authority)
            assert (await open_since.get(site.url)).text == "https"

            # What cannot be used changes nothing.
            await site.put(**{"tls.crt": b"none", "tls.key": b"none"})
            looks = site.looks
            await eventually(lambda: site.looks > looks + 2, what="the broken certificate was looked at")
            assert await greets(site, second.authority)

    with_site(case)


def test_a_certificate_for_another_host_is_not_believed() -> None:
    async def case(site: Site) -> None:
        pair = make_pair([HOST], datetime.now(UTC))
        await site.put(**{"tls.crt": pair.certificate, "tls.key": pair.key})
        await eventually(lambda: site.server.started, what="the server serves")
        assert not await greets(site, pair.authority)

    with_site(case)
