"""Serve a `Folder` by the pull half of the OCI distribution specification.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md, end-1 to end-3 and end-8a.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devcluster.registry.folder import Folder, is_repository

_CHUNK_BYTES: Final = 256 * 1024
_STALL_ABOVE_BYTES: Final = 4096
_STALL_POLL_SECONDS: Final = 0.05
_STALL_POLLS_MAX: Final = 1200
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True)
class Access:
    """One answered request."""

    method: str
    path: str
    status: int
    bytes: int
    """Of the body, as far as it was sent."""


@dataclass(eq=False, slots=True)
class Uplink:
    """The link of the registry, which all answers share."""

    bytes_per_second: int = 0
    """0: no limit."""
    _free_at: float = 0.0

    async def send(self, size_bytes: int) -> None:
        """Wait as long as these bytes take, behind those that came before."""
        if self.bytes_per_second:
            now = asyncio.get_running_loop().time()
            self._free_at = max(self._free_at, now) + size_bytes / self.bytes_per_second
            await asyncio.sleep(self._free_at - now)


def registry_app(
    root: Path, *, log: Callable[[Access], None], answering: Counter[str], uplink: Uplink | None = None
) -> Starlette:
    """The registry as an ASGI application; `log` is called once per request, when its answer has ended.

    `answering` counts, by path, the answers that have begun and not ended.
    """
    endpoints = _Endpoints(Folder(root))
    methods = ["GET"]  # Starlette adds HEAD
    return Starlette(
        routes=[
            Route("/v2/", endpoints.base, methods=methods),
            Route("/v2/{repository:path}/manifests/{reference}", endpoints.manifest, methods=methods),
            Route("/v2/{repository:path}/blobs/{digest}", endpoints.blob, methods=methods),
            Route("/v2/{repository:path}/tags/list", endpoints.tags, methods=methods),
        ],
        middleware=[Middleware(_AccessLog, log=log, answering=answering, uplink=uplink or Uplink())],
        exception_handlers={HTTPException: _refusal},
    )


@dataclass(frozen=True, slots=True)
class _Endpoints:
    folder: Folder

    async def base(self, _: Request) -> Response:
        return JSONResponse({}, headers={"docker-distribution-api-version": "registry/2.0"})

    async def manifest(self, request: Request) -> Response:
        repository = self._admitted(request)
        manifest = self.folder.manifest(repository, request.path_params["reference"])
        if manifest is None:
            raise _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        headers = {"docker-content-digest": manifest.digest, "etag": f'"{manifest.digest}"'}
        return Response(manifest.body, media_type=manifest.media_type, headers=headers)

    async def blob(self, request: Request) -> Response:
        repository = self._admitted(request)
        path = self.folder.blob(request.path_params["digest"])
        if path is None:
            raise _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        headers = {"docker-content-digest": request.path_params["digest"], "accept-ranges": "bytes"}
        if wanted := _RANGE.fullmatch(request.headers.get("range", "")):
            first, last, status = int(wanted[1]), min(int(wanted[2] or last), last), 206
            if first > last:
                raise _error(416, "SIZE_INVALID", "range not satisfiable", {"content-range": f"bytes */{size}"})
            headers["content-range"] = f"bytes {first}-{last}/{size}"
        headers["content-length"] = str(last - first + 1)
        content_type = "application/octet-stream"
        if request.method == "HEAD":
            return Response(status_code=status, media_type=content_type, headers=headers)
        body = self._slice(path, first, last + 1, repository)
        return StreamingResponse(body, status_code=status, media_type=content_type, headers=headers)

    async def tags(self, request: Request) -> Response:
        repository = self._admitted(request)
        tags = self.folder.tags(repository)
        if tags is None:
            raise _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        return JSONResponse({"name": repository, "tags": tags})

    def _admitted(self, request: Request) -> str:
        """The repository of the request. Raises the refusal that the folder prescribes for it."""
        repository: str = request.path_params["repository"]
        if not is_repository(repository):
            raise _error(404, "NAME_INVALID", "invalid repository name")
        answer = self.folder.answer(repository)
        if answer.status == 429:
            raise _error(429, "TOOMANYREQUESTS", "too many requests")
        if answer.status:
            raise _error(answer.status, "UNKNOWN", "unknown error")
        if answer.username:
            expected = base64.b64encode(f"{answer.username}:{answer.password}".encode()).decode()
            if not hmac.compare_digest(request.headers.get("authorization", ""), f"Basic {expected}"):
                challenge = {"www-authenticate": 'Basic realm="registry"'}
                raise _error(401, "UNAUTHORIZED", "authentication required", challenge)
        return repository

    async def _slice(self, path: Path, first: int, end: int, repository: str) -> AsyncIterator[bytes]:
        with _opened_at(path, first) as file:
            middle = first + (end - first) // 2
            while first < end:
                if first >= middle and end > _STALL_ABOVE_BYTES:
                    await self._stalled(repository)
                upto = middle if first < middle else end
                chunk = file.read(min(_CHUNK_BYTES, upto - first))
                if not chunk:
                    return
                first += len(chunk)
                yield chunk

    async def _stalled(self, repository: str) -> None:
        for _ in range(_STALL_POLLS_MAX):
            if not self.folder.answer(repository).stall:
                return
            await asyncio.sleep(_STALL_POLL_SECONDS)


class _AccessLog:
    """Log each answer with the bytes of its body, below everything that could answer."""

    def __init__(self, app: ASGIApp, log: Callable[[Access], None], answering: Counter[str], uplink: Uplink) -> None:
        self._app = app
        self._log = log
        self._answering = answering
        self._uplink = uplink

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, sent = 0, 0
        path = scope["path"]

        async def counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                self._answering[path] += 1
            elif scope["method"] != "HEAD":
                sent += len(message.get("body", b""))
                await self._uplink.send(len(message.get("body", b"")))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            if status:
                self._answering[path] -= 1
            self._log(Access(scope["method"], path, status, sent))


def _opened_at(path: Path, offset: int) -> BinaryIO:
    file = path.open("rb")
    file.seek(offset)
    return file


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> HTTPException:
    return HTTPException(status, json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}), headers)


async def _refusal(_: Request, error: Exception) -> Response:
    """The specification's error body; `HTTPException.detail` is that JSON, or Starlette's own words."""
    assert isinstance(error, HTTPException)  # noqa: S101 - the table of handlers says so
    body = error.detail if error.detail.startswith("{") else _error(0, "UNSUPPORTED", error.detail).detail
    return Response(body, error.status_code, error.headers, media_type="application/json")
