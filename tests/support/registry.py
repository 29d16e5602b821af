"""Serve a folder as a registry within the process, with faults: `OciRegistries` over no network."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx

from adapters.clock import Clock
from adapters.oci_registry import OciRegistries
from adapters.registry_settings import EndpointSettings, RegistrySettings
from devcluster.registry.app import registry_app
from devcluster.registry.folder import Folder
from devcluster.registry.images import Image, write_image


class InProcessRegistry(httpx.AsyncBaseTransport):
    """A registry under one name, and what was asked of it."""

    def __init__(self, host: str, root: Path) -> None:
        self._root = root
        self._host = host
        app = registry_app(root, log=lambda _access: None, answering=Counter())
        self._served = httpx.ASGITransport(app)
        self.requests: list[str] = []
        """Method and path of each request."""
        self.answers_after = 0.0
        """Seconds until each answer."""
        self.down = False
        self.status = 0
        """The status of each answer; 0: by the content."""
        self.broken = ""
        """The repository whose answers are 500; empty: none."""

    def client(self, clock: Clock) -> OciRegistries:
        """What asks this registry, and no other."""
        settings = {self._host: RegistrySettings(EndpointSettings(self._host))}
        return OciRegistries(settings, clock, transport=self)

    def put(self, repository: str, tag: str, image: Image) -> str:
        """Push an image; its digest."""
        return write_image(self._root, repository, tag, image)

    def drop_tag(self, repository: str, tag: str) -> None:
        """Let the tag be unknown."""
        Folder(self._root).write_tag(repository, tag, "sha256:" + "0" * 64)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(f"{request.method} {request.url.path}")
        if self.down:
            raise httpx.ConnectError("connection refused")
        await asyncio.sleep(self.answers_after)
        if self.status:
            return httpx.Response(self.status, headers={"retry-after": "600"} if self.status == 429 else {})
        if self.broken and request.url.path.startswith(f"/v2/{self.broken}/"):
            return httpx.Response(500)
        return await self._served.handle_async_request(request)
