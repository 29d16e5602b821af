"""A real containerd pulls private images from a real registry, and no mirror is sent their credentials."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.credential_providers import CredentialProviders, load_providers
from adapters.cri import open_runtime
from adapters.kubernetes.paths import secrets
from devcluster.registry.app import registry_app
from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import serve_app
from tests.real.containerd import Containerd, start_containerd
from tests.real.programs import real_time
from tests.real.registry import DockerRegistry, push_image, start_docker_registry
from tests.support.agents import Bench, bench
from tests.support.instant import until
from warmhook.node_lines import Line
from warmhook.ports import Runtime
from warmhook.warmimages import ObjectKey, Pull

pytestmark = pytest.mark.containerd

PASSWORD, NEW_PASSWORD = "correct-horse-battery", "staple-of-the-day"
# bcrypt of both.
ACCOUNTS = {
    PASSWORD: "robot:$2y$05$bbbbbbbbbbbbbbbbbbbbbuYU11emQcS/0541h2UinjABt8GjDv7oe\n",
    NEW_PASSWORD: "robot:$2y$05$bbbbbbbbbbbbbbbbbbbbbuWQ2gRbRmI8ZcXJZiZzzW9y9Q8ci7qs2\n",
}
PLUGIN = """\
#!/bin/sh
cat > {folder}/request
echo '{{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
  "cacheKeyType": "Registry", "cacheDuration": "10m",
  "auth": {{"{host}": {{"username": "robot", "password": "'$PASSWORD'"}}}}}}'
"""


def login(password: str) -> dict[str, str]:
    """The entry of a Docker configuration."""
    return {"auth": base64.b64encode(f"robot:{password}".encode()).decode()}


@dataclass(frozen=True, slots=True)
class Place:
    """A registry that wants a password, a containerd and an agent of it."""

    registry: DockerRegistry
    containerd: Containerd
    runtime: Runtime
    bench: Bench

    async def push(self, name: str = "web") -> str:
        """Push an image and return its reference."""
        account = f"robot:{PASSWORD}"
        return await push_image(self.registry.host, f"shop/{name}", "1", incompressible_image(0.1, name), account)

    async def write_secret(self, login: dict[str, str], host: str = "") -> None:
        """Create or replace the Secret `regcred` of the namespace `shop`, for the registry or another host."""
        content = json.dumps({"auths": {f"https://{host or self.registry.host}": login}})
        kubernetes = self.bench.kubernetes
        await kubernetes.delete(secrets("shop", "regcred"))
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "regcred"}}
        data = {".dockerconfigjson": base64.b64encode(content.encode()).decode()}
        await kubernetes.create(secrets("shop"), body | {"type": "kubernetes.io/dockerconfigjson", "data": data})

    async def want(self, image: str, *names: str, backoff_limit: int = 3) -> Line:
        """A line for an image, with these Secrets."""
        line = Line(ObjectKey("shop", "web"), image, pull=Pull(secrets=names, backoff_limit=backoff_limit))
        await self.bench.want(line)
        return line

    def written(self) -> str:
        """All that the agent logged, reported, counted and saved."""
        b = self.bench
        saved = "".join(path.read_text() for path in b.state_dir.rglob("*") if path.is_file())
        return json.dumps([b.logs, b.stored_report()], default=repr) + b.metrics.exposition().decode() + saved


@contextlib.asynccontextmanager
async def _place() -> AsyncIterator[Place]:
    async with (
        start_docker_registry(accounts=ACCOUNTS[PASSWORD]) as registry,
        start_containerd() as containerd,
        open_runtime(containerd.endpoint) as runtime,
        bench(allow_local_registries=True) as b,
    ):
        await b.kubernetes.create(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
        )
        yield Place(registry, containerd, runtime, b)


@real_time
async def test_a_private_image_is_pulled_with_its_secret_and_after_a_rotation_with_the_new_one() -> None:
    async with _place() as place:
        b, image = place.bench, await place.push()
        await place.write_secret(login(PASSWORD))
        async with b.agent(runtime=place.runtime, check_seconds=1):
            line = await place.want(image, "regcred")
            await until(lambda: b.state(line) == "warm", seconds=30)
            place.registry.accounts.write_text(ACCOUNTS[NEW_PASSWORD])
            await place.runtime.remove(image)
            await until(lambda: "Unauthorized" in json.dumps(b.events("pull")), seconds=30)
            await place.write_secret(login(NEW_PASSWORD))
            await until(lambda: b.state(line) == "warm", seconds=60)


@real_time
async def test_a_wrong_password_is_unauthorized_and_is_written_nowhere() -> None:
    async with _place() as place:
        b, image = place.bench, await place.push()
        await place.write_secret(login(NEW_PASSWORD))
        async with b.agent(runtime=place.runtime, check_seconds=1):
            line = await place.want(image, "regcred", backoff_limit=0)
            await until(lambda: b.state(line) == "failed", seconds=30)
            assert b.reason(line) == "Unauthorized"
        written = place.written()
        assert image in written
        for secret in (NEW_PASSWORD, login(NEW_PASSWORD)["auth"]):
            assert secret not in written


@real_time
async def test_a_private_image_is_pulled_with_a_credential_provider() -> None:
    async with _place() as place:
        b, image = place.bench, await place.push()
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            plugin = Path(folder) / "plugin"
            plugin.write_text(PLUGIN.format(folder=folder, host=place.registry.host))
            plugin.chmod(0o755)
            provider = {
                "name": "plugin",
                "matchImages": [place.registry.host],
                "defaultCacheDuration": "0s",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
                "env": [{"name": "PASSWORD", "value": PASSWORD}],
            }
            kind = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig"}
            config = Path(folder) / "config.yaml"
            config.write_text(json.dumps({**kind, "providers": [provider]}))
            providers = load_providers(config)
            b.providers = CredentialProviders(providers, Path(folder), os.environ, b.clock(), b.log())
            async with b.agent(runtime=place.runtime, check_seconds=1):
                line = await place.want(image)
                await until(lambda: b.state(line) == "warm", seconds=30)
            assert json.loads((Path(folder) / "request").read_text())["image"] == f"{place.registry.host}/shop/web"
        assert PASSWORD not in place.written()


@real_time
async def test_an_identity_token_is_exchanged_for_an_access_token() -> None:
    async with _place() as place:
        b, given = place.bench, list[dict[str, list[str]]]()
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            write_image(Path(folder), "shop/web", "1", incompressible_image(0.1, "web"))
            registry = registry_app(Path(folder), log=lambda _: None, answering=Counter())

            async def front(scope: Scope, receive: Receive, send: Send) -> None:
                request = Request(scope, receive)
                answer: ASGIApp = registry
                if request.url.path == "/token":
                    given.append(parse_qs((await request.body()).decode()))
                    answer = JSONResponse({"access_token": "opened", "expires_in": 300})
                elif request.headers.get("authorization") != "Bearer opened":
                    challenge = f'Bearer realm="http://{request.headers["host"]}/token",service="test"'
                    answer = Response(status_code=401, headers={"www-authenticate": challenge})
                await answer(scope, receive, send)

            async with serve_app(front) as host:
                await place.write_secret({"identitytoken": PASSWORD}, host)
                async with b.agent(runtime=place.runtime, check_seconds=1):
                    line = await place.want(f"{host}/shop/web:1", "regcred")
                    await until(lambda: b.state(line) == "warm", seconds=30)
        assert given[0]["grant_type"] == ["refresh_token"]
        assert given[0]["refresh_token"] == [PASSWORD]
        assert PASSWORD not in place.written()


@real_time
async def test_a_mirror_is_never_sent_the_credentials_of_the_registry() -> None:
    async with _place() as place:
        b, image = place.bench, await place.push()
        heard: list[str] = []

        async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
            challenge = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="test"\r\n'
            writer.write(challenge + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(mirror, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            host = place.registry.host
            folder = place.containerd.certs / host
            folder.mkdir()
            (folder / "hosts.toml").write_text(f'server = "http://{host}"\n[host."http://127.0.0.1:{port}"]\n')
            await place.write_secret(login(PASSWORD))
            async with b.agent(runtime=place.runtime, check_seconds=1):
                line = await place.want(image, "regcred")
                await until(lambda: b.state(line) == "warm", seconds=30)
        assert heard
        assert not [request for request in heard if "authorization" in request.lower()]
