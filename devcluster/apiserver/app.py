"""Serve an API server over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.responses import StreamingResponse
from starlette.routing import Route

from devcluster.apiserver import protobuf
from devcluster.apiserver.core import ApiServer, is_watch
from devcluster.apiserver.errors import StatusError
from devcluster.apiserver.webhook_client import Services, as_given, review
from warmhook.ports import Response

_NO_SERVICES: Services = MappingProxyType({})
_COLLECT_SECONDS = 0.5
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")


def _http(answer: Response) -> HttpResponse:
    return HttpResponse(answer.body, answer.status, dict(answer.headers))


def _as_json(headers: dict[str, str], body: bytes) -> bytes:
    """The body, whose content type in `headers` becomes JSON if it was protobuf. Raises `StatusError`."""
    if not headers.get("content-type", "").startswith(protobuf.MEDIA_TYPE):
        return body
    headers["content-type"] = "application/json"
    return protobuf.json_of(body)


def application(server: ApiServer, *, services: Services = _NO_SERVICES) -> Starlette:
    """The server as an ASGI application; its controllers run twice a second while it lives."""

    async def answer(request: Request) -> HttpResponse:
        path, query = request.url.path, dict(request.query_params)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.raw}
        if is_watch(request.method, query):
            begun = server.watch(path, query, headers)
            if isinstance(begun, Response):
                return _http(begun)
            return StreamingResponse(begun.lines(), media_type="application/json")
        body = await request.body()
        try:
            body = _as_json(headers, body)
        except StatusError as error:
            return _http(error.response())
        reviewing = server.review(request.method, path, query, headers, body)
        if reviewing is not None:
            try:
                body = as_given(await review(reviewing, services))
            except StatusError as error:
                return _http(error.response())
            headers["content-type"] = "application/json"
        return _http(server.handle(request.method, path, query, headers, body))

    async def collect() -> None:
        while True:
            server.collect()
            await asyncio.sleep(_COLLECT_SECONDS)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(collect(), name="apiserver-controllers")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return Starlette(routes=[Route("/{path:path}", answer, methods=list(_METHODS))], lifespan=lifespan)
