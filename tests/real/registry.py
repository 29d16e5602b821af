"""Give tests a real registry, and images in it: Debian's docker-registry and skopeo."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from devcluster.registry.images import Image, write_image
from devcluster.registry.serve import serve_registry
from tests.real.programs import eventually, free_port, need, running

__all__ = ["DockerRegistry", "push_image", "skopeo_copy", "start_docker_registry"]

_COPY_SECONDS = 120


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """A docker-registry of the test's own."""

    host: str
    """`127.0.0.1:<port>`."""
    root: Path

    @property
    def accounts(self) -> Path:
        """Who may use it, a line of user and bcrypt each."""
        return self.root / "accounts"

    def log(self) -> str:
        """What it has printed so far."""
        return (self.root / "log").read_text(errors="replace")


@contextlib.asynccontextmanager
async def start_docker_registry(
    *, notify_url: str | None = None, headers: Mapping[str, str] | None = None, accounts: str = ""
) -> AsyncIterator[DockerRegistry]:
    """A running, empty docker-registry; skips or fails the test (requirement `registry`) where there is none.

    With `accounts`, lines of user and bcrypt, it wants one of them for everything; its `accounts` are read again when
    they change. It posts its notifications to `notify_url` with these `headers`
    (https://distribution.github.io/distribution/about/notifications/).
    """
    need("registry", "docker-registry")
    root = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    registry = DockerRegistry(f"127.0.0.1:{free_port()}", root)
    config = root / "config.yml"
    settings = _config(registry, notify_url, headers or {})
    if accounts:
        registry.accounts.write_text(accounts)
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(registry.accounts)}}
    config.write_text(json.dumps(settings))  # YAML reads JSON
    try:
        async with running("docker-registry", "serve", str(config), log=root / "log"), httpx.AsyncClient() as client:

            async def answers() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(f"http://{registry.host}/v2/")).status_code in (200, 401)
                return False

            await eventually(answers, what="docker-registry answers")
            yield registry
    finally:
        shutil.rmtree(root)


async def skopeo_copy(source: str, target: str, account: str = "") -> None:
    """Copy an image with all its children, digests unchanged, between registries without TLS.

    `account` is `user:password` of the target. `source` and `target` are references without a transport.
    Raises `RuntimeError` with skopeo's own words.
    """
    need("skopeo", "skopeo")
    process = await asyncio.create_subprocess_exec(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--all",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        *(("--dest-creds", account) if account else ()),
        f"docker://{source}",
        f"docker://{target}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _COPY_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"skopeo copy {source} {target}: {output.decode(errors='replace')}")


async def push_image(host: str, repository: str, tag: str, image: Image, account: str = "") -> str:
    """Push an image with skopeo and return its reference, `host/repository:tag`."""
    root = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    try:
        write_image(root, repository, tag, image)
        async with serve_registry(root) as source:
            await skopeo_copy(f"{source.host}/{repository}:{tag}", f"{host}/{repository}:{tag}", account)
    finally:
        shutil.rmtree(root)
    return f"{host}/{repository}:{tag}"


def _config(registry: DockerRegistry, notify_url: str | None, headers: Mapping[str, str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(registry.root / "content")}, "delete": {"enabled": True}},
        "http": {"addr": registry.host},
    }
    if notify_url:
        endpoint = {
            "name": "test",
            "url": notify_url,
            "headers": {name: [value] for name, value in headers.items()},
            "timeout": "5s",
            "threshold": 3,
            "backoff": "200ms",
        }
        config["notifications"] = {"endpoints": [endpoint]}
    return config
