"""The certificate of admission is made, renewed in time, trusted before it is used, and used without a restart."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

import httpx
import pytest
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from adapters.certificates import LIFETIME, NotACertificate, belong_together, make_pair, still_valid, wants_rotation
from adapters.clock import real_clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import NotFound
from adapters.kubernetes.webhook_secret import SECRET, token_data
from devcluster.apiserver import ApiServer, InProcessTransport
from handlers.serving.credentials import Credentials
from handlers.serving.server import TlsServer, serve_tls
from handlers.watch.webhook_certificate import CertRotator
from tests.handlers.world import (
    ADMISSION_TOKEN,
    NAMESPACE,
    START,
    AsyncTest,
    World,
    giving,
    in_world,
    logged,
    run_in_world,
    status,
)
from tests.real.programs import eventually
from tests.support.instant import loop_clock
from warmhook.admission_tokens import path_of, read_tokens, token_of
from warmhook.ports import Object

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
HOST = "warmhook-web.warmhook-system.svc"


def configuration(annotations: dict[str, str] | None = None) -> Object:
    service = {"service": {"name": "warmhook-web", "namespace": NAMESPACE, "port": 443}}
    effects = {"sideEffects": "NoneOnDryRun", "failurePolicy": "Ignore", "timeoutSeconds": 1}
    hook = {"name": "pods.warmhook.dev", "clientConfig": service, "admissionReviewVersions": ["v1"], **effects}
    return {"metadata": {"name": "warmhook", "annotations": annotations or {}}, "webhooks": [hook]}


def _run_with_admission(case: AsyncTest) -> None:
    """Run a case in a world in which admission is installed."""

    async def run(world: World) -> None:
        await world.admin.create(CONFIGURATIONS, configuration())
        await case(world)

    run_in_world(run)


with_admission = giving(1, _run_with_admission)


async def patch_secret(world: World, data: Object | None) -> None:
    await world.admin.patch(paths.secrets(NAMESPACE, SECRET), {"data": data})


async def secret(kubernetes: Kubernetes) -> dict[str, bytes]:
    data = (await kubernetes.get(paths.secrets(NAMESPACE, SECRET)))["data"]
    return {name: base64.b64decode(text) for name, text in data.items()}


async def bundle(kubernetes: Kubernetes) -> bytes:
    found = await kubernetes.get(paths.mutating_webhooks("warmhook"))
    return base64.b64decode(found["webhooks"][0]["clientConfig"].get("caBundle", ""))


async def client_config(kubernetes: Kubernetes) -> Object:
    found = await kubernetes.get(paths.mutating_webhooks("warmhook"))
    client: Object = found["webhooks"][0]["clientConfig"]
    return client


async def token(kubernetes: Kubernetes) -> str:
    """What the API server puts into the path."""
    return token_of((await client_config(kubernetes))["service"].get("path", ""))


def certificates(
    world: World, ahead: timedelta = timedelta(0), kubernetes: Kubernetes | None = None, *, leads: bool = True
) -> CertRotator:
    rng = Random(int(ahead.total_seconds()))
    return CertRotator(kubernetes or world.admin, NAMESPACE, loop_clock(START + ahead), rng, lambda: leads)


@pytest.mark.slow
@in_world()
async def test_a_certificate_is_made_and_trusted_once_admission_is_installed(world: World) -> None:
    async with world.watching():
        # As the manifests ship it.
        await patch_secret(world, None)
        await asyncio.sleep(60)
        assert "data" not in await world.admin.get(paths.secrets(NAMESPACE, SECRET))
        await world.admin.create(CONFIGURATIONS, configuration())
        await asyncio.sleep(60)
        held = await secret(world.admin)
        assert read_tokens(held["admission-tokens"]) == (await token(world.admin),)
        assert await bundle(world.admin) == held["ca.crt"]
        assert not wants_rotation(held["tls.crt"], [HOST, f"{HOST}.cluster.local"], world.now())
        version = (await world.admin.get(paths.secrets(NAMESPACE, SECRET)))["metadata"]["resourceVersion"]
        await asyncio.sleep(3600)
        again = (await world.admin.get(paths.secrets(NAMESPACE, SECRET)))["metadata"]["resourceVersion"]
        assert again == version


@with_admission
async def test_a_certificate_is_renewed_after_two_thirds_of_its_life_and_the_old_authority_stays(
    world: World,
) -> None:
    await certificates(world).reconcile()
    first = await secret(world.admin)
    await certificates(world, LIFETIME * 0.6).reconcile()
    assert await secret(world.admin) == first
    await certificates(world, LIFETIME * 0.7).reconcile()
    second = await secret(world.admin)
    assert second["tls.crt"] != first["tls.crt"]
    assert first["ca.crt"] in second["ca.crt"]
    assert await bundle(world.admin) == second["ca.crt"]
    # By the next time the oldest has ended.
    await certificates(world, LIFETIME * 1.4).reconcile()
    assert first["ca.crt"] not in await bundle(world.admin)
    assert (await bundle(world.admin)).count(b"BEGIN") == 2


@with_admission
async def test_a_certificate_is_trusted_before_it_is_used(world: World) -> None:
    await certificates(world, kubernetes=Kubernetes(world.transport)).reconcile()
    assert [path.rpartition("/")[2] for _, path in world.writes()] == ["warmhook", SECRET]


@with_admission
async def test_a_broken_secret_a_foreign_bundle_or_another_host_is_put_right(world: World) -> None:
    await certificates(world).reconcile()
    good = await bundle(world.admin)
    hooks = configuration()["webhooks"]
    await world.admin.patch(paths.mutating_webhooks("warmhook"), {"webhooks": hooks})
    await certificates(world).reconcile()
    assert await bundle(world.admin) == good
    await patch_secret(world, {"tls.crt": "AAAA", "tls.key": "%"})
    await certificates(world).reconcile()
    assert wants_rotation((await secret(world.admin))["tls.crt"], [HOST], world.now()) is False
    hooks[0]["clientConfig"] = {"url": "https://127.0.0.1:8443/"}
    await world.admin.patch(paths.mutating_webhooks("warmhook"), {"webhooks": hooks})
    await certificates(world).reconcile()
    assert not wants_rotation((await secret(world.admin))["tls.crt"], ["127.0.0.1"], world.now())
    assert (await client_config(world.admin))["url"] == f"https://127.0.0.1:8443{path_of(ADMISSION_TOKEN)}"


@in_world()
async def test_where_cert_manager_makes_the_certificate_the_token_alone_is_written(world: World) -> None:
    annotations = {"cert-manager.io/inject-ca-from": "warmhook-system/warmhook"}
    made = configuration(annotations)
    made["webhooks"][0]["clientConfig"]["caBundle"] = "QUFB"
    await world.admin.create(CONFIGURATIONS, made)
    data = {"data": {"tls.crt": "QkJC", "tls.key": "Q0ND", "ca.crt": "RERE", "admission-tokens": None}}
    await world.admin.patch(paths.secrets(NAMESPACE, SECRET), data)
    await certificates(world).reconcile()
    held = await secret(world.admin)
    assert (held["tls.crt"], held["tls.key"], held["ca.crt"]) == (b"BBB", b"CCC", b"DDD")
    assert read_tokens(held["admission-tokens"]) == (await token(world.admin),)
    assert await bundle(world.admin) == b"AAA"


@with_admission
async def test_a_process_that_does_not_lead_writes_nothing(world: World) -> None:
    await certificates(world, kubernetes=Kubernetes(world.transport), leads=False).reconcile()
    assert world.writes() == []


@pytest.mark.parametrize("part", ["tls.key", "ca.crt"])
@with_admission
async def test_a_key_or_an_authority_of_another_certificate_is_put_right(world: World, part: str) -> None:
    await certificates(world).reconcile()
    other = make_pair([HOST], world.now())
    foreign = base64.b64encode({"tls.key": other.key, "ca.crt": other.authority}[part]).decode()
    await patch_secret(world, {part: foreign})
    await certificates(world).reconcile()
    held = await secret(world.admin)
    assert belong_together(held["ca.crt"], held["tls.crt"], held["tls.key"])
    assert await bundle(world.admin) == held["ca.crt"]


@in_world()
async def test_a_secret_that_is_missing_is_said_once_with_the_command_that_makes_it(world: World) -> None:
    path = paths.secrets(NAMESPACE, SECRET)
    await world.admin.delete(path)
    await world.admin.create(CONFIGURATIONS, configuration())
    async with world.watching():
        await asyncio.sleep(600)
        with pytest.raises(NotFound):
            await world.admin.get(path)
        assert [line["hint"] for line in logged("certificate-not-kept")] == [
            "kubectl -n warmhook-system create secret generic warmhook-tls"
        ]
        await world.admin.create(paths.secrets(NAMESPACE), {"metadata": {"name": SECRET}, "type": "Opaque"})
        await asyncio.sleep(60)
        assert read_tokens((await secret(world.admin))["admission-tokens"]) == (await token(world.admin),)


@with_admission
async def test_a_refusal_is_logged_without_the_token(world: World) -> None:
    # As a policy or a validation quotes what it does not like.
    quoted = status(422, f"clientConfig.service.path: Invalid value: {path_of(ADMISSION_TOKEN)!r}: too long")
    world.answer(quoted, "PATCH")
    async with world.watching(transport=world.transport):
        await asyncio.sleep(60)
    (told,) = logged("certificate-not-kept")
    assert "Invalid value: '/admission/pods/<token>': too long" in told["problem"]
    assert ADMISSION_TOKEN not in str(logged())


@in_world()
async def test_a_new_token_is_used_once_every_web_accepts_it_and_the_old_one_stays_accepted(world: World) -> None:
    old = "20251201-" + "1" * 48
    await world.admin.create(CONFIGURATIONS, configuration())
    data = {name: base64.b64encode(text).decode() for name, text in token_data((old,)).items()}
    await patch_secret(world, data)
    web = asyncio.create_task(world.credentials.run(world.clock), name="web reads the Secret")
    used = []
    async with world.watching():
        await asyncio.sleep(5)
        for _ in range(300):
            await asyncio.sleep(1)
            used.append(await token(world.admin))
            assert (await world.client.post(path_of(used[-1]), content=b"{}")).status_code == 200
    web.cancel()
    assert used[0] == old
    assert len(set(used)) == 2
    # The API servers learn of a configuration at different moments.
    assert (await world.client.post(path_of(old), content=b"{}")).status_code == 200
    assert read_tokens((await secret(world.admin))["admission-tokens"]) == (used[-1], old)


@in_world()
async def test_only_path_and_authorities_of_the_configuration_change(world: World) -> None:
    before = await world.admin.create(CONFIGURATIONS, configuration())
    await certificates(world).reconcile()
    after = await world.admin.get(paths.mutating_webhooks("warmhook"))
    assert after["webhooks"] != before["webhooks"]
    for hooks in (before["webhooks"], after["webhooks"]):
        hooks[0]["clientConfig"].pop("caBundle", None)
        hooks[0]["clientConfig"]["service"].pop("path", None)
    assert after["webhooks"] == before["webhooks"]


@pytest.mark.parametrize("path", ["/admission/pods", "/", "/admission/pods/20260101-" + "0" * 48])
@in_world()
async def test_a_path_that_somebody_else_wrote_is_put_right_at_once(world: World, path: str) -> None:
    made = configuration()
    made["webhooks"][0]["clientConfig"]["service"]["path"] = path
    await world.admin.create(CONFIGURATIONS, made)
    await certificates(world).reconcile()
    assert await token(world.admin) == ADMISSION_TOKEN


def test_bytes_that_are_no_certificate_are_recognised() -> None:
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

    def looked(self, times: int) -> bool:
        return self.looks > times

    async def put(self, certificate: bytes, key: bytes) -> None:
        contents = {"tls.crt": certificate, "tls.key": key}
        data = {name: base64.b64encode(text).decode() for name, text in contents.items()}
        body = {"metadata": {"name": SECRET}, "data": data}
        try:
            await self.kubernetes.patch(paths.secrets(NAMESPACE, SECRET), {"data": data})
        except NotFound:
            await self.kubernetes.create(paths.secrets(NAMESPACE), body)


def _run_with_site(case: AsyncTest) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            site = Site(listener)
            await site.kubernetes.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            credentials = Credentials(site.kubernetes, NAMESPACE)
            clock = replace(real_clock(), sleep=site.look_soon)
            looking = asyncio.create_task(credentials.run(clock), name="credentials")
            serving = serve_tls(site.server, listener, credentials, sleep=site.look_soon)
            task = asyncio.create_task(serving, name="serve TLS")
            try:
                await case(site)
                site.server.should_exit = True
                await asyncio.wait_for(task, 5)
            finally:
                task.cancel()
                looking.cancel()
                await asyncio.wait({task, looking})

    asyncio.run(run())


with_site = giving(1, _run_with_site)


async def greets(site: Site, authorities: bytes) -> bool:
    try:
        async with client(authorities) as asking:
            return (await asking.get(site.url)).text == "https"
    except httpx.TransportError:
        return False


@pytest.mark.slow
@with_site
async def test_new_handshakes_see_the_new_certificate_and_open_connections_go_on(site: Site) -> None:
    now = datetime.now(UTC)
    first, second = make_pair(["127.0.0.1"], now), make_pair(["127.0.0.1"], now)
    await site.put(first.certificate, first.key)
    await eventually(lambda: greets(site, first.authority), what="the first certificate is shown")
    assert not await greets(site, second.authority)
    async with client(first.authority) as open_since:
        assert (await open_since.get(site.url)).text == "https"
        await site.put(second.certificate, second.key)
        await eventually(lambda: greets(site, second.authority), what="the second certificate is shown")
        assert not await greets(site, first.authority)
        assert (await open_since.get(site.url)).text == "https"

        # What cannot be used changes nothing.
        await site.put(b"none", b"none")
        looks = site.looks
        await eventually(lambda: site.looks > looks + 2, what="the broken certificate was looked at")
        assert await greets(site, second.authority)
        for key in (b"none", first.key):
            await site.put(second.certificate, key)
            await eventually(partial(site.looked, site.looks + 2), what="the foreign key was looked at")
            assert await greets(site, second.authority)
        # What is restored is shown.
        await site.put(first.certificate, second.key)
        await site.put(first.certificate, first.key)
        await eventually(lambda: greets(site, first.authority), what="the restored certificate is shown")


@with_site
async def test_a_certificate_for_another_host_is_not_believed(site: Site) -> None:
    pair = make_pair([HOST], datetime.now(UTC))
    await site.put(pair.certificate, pair.key)
    await eventually(lambda: site.server.started, what="the server serves")
    assert not await greets(site, pair.authority)


@with_site
async def test_without_a_place_for_files_a_certificate_is_tried_again_until_there_is_one(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "later"
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    pair = make_pair(["127.0.0.1"], datetime.now(UTC))
    await site.put(pair.certificate, pair.key)
    await eventually(partial(site.looked, site.looks + 5), what="the certificate was looked at")
    assert not site.server.started
    folder.mkdir()
    await eventually(lambda: greets(site, pair.authority), what="the certificate is shown", seconds=5)


@in_world()
async def test_a_secret_that_cannot_be_read_is_logged_once_with_what_to_do_and_once_when_it_is_over(
    world: World,
) -> None:
    credentials = Credentials(Kubernetes(world.transport), NAMESPACE)

    async def logged(code: int | None, *, looks: int) -> list[tuple[str, str]]:
        world.faults.clear()
        if code:
            world.answer(status(code))
        with structlog.testing.capture_logs() as logs:
            for _ in range(looks):
                await credentials.look()
        return [(line["event"], line.get("hint", "")) for line in logs]

    right = f"the ServiceAccount must get the Secret {SECRET} in {NAMESPACE}"
    assert await logged(403, looks=3) == [("certificate-not-read", right)]
    assert await logged(None, looks=2) == [("certificate-not-read-over", "")]
    # A restart of the API server is not worth a line here: others name it.
    assert await logged(503, looks=2) == []
    assert [event for event, _ in await logged(503, looks=5)] == ["certificate-not-read"]
    assert await logged(None, looks=1) == [("certificate-not-read-over", "")]


@with_admission
async def test_a_right_that_watch_misses_for_the_certificate_is_logged_with_what_to_do(world: World) -> None:
    world.answer(status(403), part="/secrets/")
    task = asyncio.create_task(certificates(world, kubernetes=Kubernetes(world.transport)).run())
    await asyncio.sleep(120)
    task.cancel()
    (line,) = logged("certificate-not-kept")
    assert "apply the manifests" in line["hint"]
