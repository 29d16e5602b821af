"""Read, write and watch Kubernetes objects as plain JSON, over any transport.

Statuses become errors that are named for the caller's next step. Lists are paged. There is no typed API: generated
models cost more time and memory than all the rest of a program.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal

from adapters.kubernetes.errors import Conflict, Gone, KubernetesError, NotFound, NotServed, Refused, Unavailable
from adapters.kubernetes.rate_limit import Lanes
from warmhook.ports import Object, Response, Transport, Unreachable
from warmhook.timestamps import parse_retry_after

MERGE_PATCH: Final = "application/merge-patch+json"
_JSON: Final = "application/json"
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_NO_QUERY: Final[Mapping[str, str]] = {}

# Objects per page of a list, as in client-go.
_PAGE: Final = 500
# The time to wait for an answer after the caller has given up.
_AFTERWARDS_SECONDS: Final = 2.0
# A watch that is silent for so long is dead: bookmarks arrive every minute. If a load balancer drops the packets of a
# connection, it looks like a quiet one.
_SILENT_SECONDS: Final = 90.0
# The server answers a watch at once.
_OPEN_SECONDS: Final = 30.0
# The requested duration of a watch; connections through load balancers rarely live longer.
_WATCH_SECONDS: Final = 290


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a list, over all its pages."""

    items: list[Object]
    resource_version: str
    """The version from which a watch continues."""


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class Kubernetes:
    """A client of the API server."""

    def __init__(
        self,
        transport: Transport,
        *,
        count: Callable[[str, str, str, float], None] = lambda _kind, _verb, _code, _seconds: None,
        lanes: Lanes | None = None,
        urgent: bool = False,
    ) -> None:
        """`count` gets resource, verb and status (or `unreachable`) of every answer, and how many seconds it took; of a
        watch, until its answer began.

        Clients with the same `lanes` share the number of requests in flight; `urgent` requests go before the others.
        """
        self._transport = transport
        self._count = count
        self._lanes = lanes or Lanes()
        self._urgent = urgent

    async def get(self, path: str, *, metadata_only: bool = False, accept: str = _JSON) -> Object:
        """The current object. Raises `NotFound`, `Unavailable`, `Refused`."""
        return await self._object("GET", path, accept=_METADATA if metadata_only else accept)

    async def list(
        self,
        path: str,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        not_older_than: str = "",
        page: int = _PAGE,
        keep: Callable[[Object], Object] = lambda obj: obj,
    ) -> Listing:
        """All objects that match both selectors, in pages of `page` objects, each reduced by `keep`.

        With `not_older_than`, a resourceVersion, the server may answer from its cache once that is as new;
        without it the read is consistent. Raises `Gone` if the continue token expired, and `NotServed` if the kind does
        not exist. A list in a missing namespace is empty.
        """
        query = {"limit": str(page), **_selectors(labels, fields)}
        if not_older_than:
            query |= {"resourceVersion": not_older_than, "resourceVersionMatch": "NotOlderThan"}
        items: list[Object] = []
        while True:
            try:
                accept = _METADATA_LIST if metadata_only else _JSON
                answer = await self._object("GET", path, query=query, accept=accept, timeout_seconds=30)
            except NotFound as error:
                raise NotServed(str(error), status=error.status, reason=error.reason) from error
            page_items = answer.get("items") or []
            if not (
                _is_object(answer)
                and isinstance(page_items, list)
                and all(isinstance(item, dict) for item in page_items)
            ):
                # Such as the answer of a proxy.
                raise Unavailable(f"GET {path}: the answer is no list of objects")
            items += map(keep, page_items)
            more = answer["metadata"].get("continue")
            if not more:
                return Listing(items, answer["metadata"].get("resourceVersion", ""))
            query.pop("resourceVersion", None)
            query.pop("resourceVersionMatch", None)
            query["continue"] = more

    async def create(self, path: str, body: Object) -> Object:
        """Create an object below the collection `path`. Raises `Conflict` if it exists."""
        return await self._object("POST", path, body)

    async def replace(self, path: str, body: Object) -> Object:
        """Write the whole object; if `body` has a resourceVersion, only over that version."""
        return await self._object("PUT", path, body)

    async def patch(self, path: str, body: Object) -> Object:
        """Apply a JSON merge patch and return the object."""
        return await self._object("PATCH", path, body)

    async def patch_size(self, path: str, body: Object) -> int:
        """Apply a JSON merge patch and return the size of the object in bytes, without reading it."""
        return len((await self._send("PATCH", path, body)).body)

    async def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> None:
        """Delete the object, with a uid or resourceVersion only that one. An absent object is no error.

        Raises `Conflict` if the precondition does not hold.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body = {"preconditions": {name: value for name, value in preconditions.items() if value}}
        try:
            await self._send("DELETE", path, body)
        except NotFound:
            return

    async def watch(
        self,
        path: str,
        *,
        resource_version: str,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        opened: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[Change, None]:
        """All changes after `resource_version`, until the server closes the watch or is silent, with bookmarks.

        `opened` is called when the server has begun to answer: the first change may take long. Raises `Gone` (list
        again), `Unavailable` (also for an ERROR event of the stream: wait, then watch again) or `Refused`.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
            "resourceVersion": resource_version,
            **_selectors(labels, fields),
        }
        headers = {"accept": _METADATA if metadata_only else _JSON}
        kind, began = _kind(path), _now()
        try:
            async with AsyncExitStack() as stack:
                opening = self._transport.stream(
                    path, query=query, headers=headers, timeout_seconds=_WATCH_SECONDS + 30
                )
                async with asyncio.timeout(_OPEN_SECONDS):
                    stream = await stack.enter_async_context(opening)
                self._count(kind, "watch", str(stream.status), _now() - began)
                if stream.status != 200:
                    body = b"".join([line async for line in stream.lines])
                    raise _error(Response(stream.status, stream.headers, body), f"watch {path}")
                opened()
                async with aclosing(_until_silent(stream.lines)) as lines, aclosing(_changes(lines, path)) as changes:
                    async for change in changes:
                        yield change
        except (Unreachable, TimeoutError) as error:
            self._count(kind, "watch", "unreachable", _now() - began)
            problem = str(error) or f"the API server did not begin to answer within {_OPEN_SECONDS:g} seconds"
            raise Unavailable(f"watch {path}: {problem}") from error

    async def _object(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] = _NO_QUERY,
        accept: str = _JSON,
        timeout_seconds: float = 10,
    ) -> Object:
        response = await self._send(method, path, body, query=query, accept=accept, timeout_seconds=timeout_seconds)
        try:
            answer = json.loads(response.body)
        except ValueError as error:
            raise Unavailable(f"{method} {path}: the answer is no JSON") from error
        if not isinstance(answer, dict):
            raise Unavailable(f"{method} {path}: the answer is no object")
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] = _NO_QUERY,
        accept: str = _JSON,
        timeout_seconds: float = 10,
    ) -> Response:
        headers = {"accept": accept}
        if body is not None:
            headers["content-type"] = MERGE_PATCH if method == "PATCH" else _JSON
        kind = _kind(path)
        namespace = "" if method == "GET" or kind == "configmaps" else _namespace(path)
        await self._lanes.enter(urgent=self._urgent, group=namespace)
        began = _now()
        sending = asyncio.create_task(
            self._transport.request(
                method, path, query=query, headers=headers, body=body, timeout_seconds=timeout_seconds
            ),
            name=f"{method} {kind}",
        )
        sending.add_done_callback(lambda ended: self._ended(ended, namespace))
        try:
            response = await asyncio.shield(sending)
        except asyncio.CancelledError:
            # Wait for the answer although the caller no longer does: cancelling costs the connection, and a slow server
            # would have to do another TLS handshake.
            asyncio.get_running_loop().call_later(_AFTERWARDS_SECONDS, sending.cancel)
            raise
        except Unreachable as error:
            self._count(kind, method.lower(), "unreachable", _now() - began)
            raise Unavailable(f"{method} {path}: {error}") from error
        self._count(kind, method.lower(), str(response.status), _now() - began)
        if response.status >= 400:
            raise _error(response, f"{method} {path}")
        return response

    def _ended(self, sending: asyncio.Task[Response], namespace: str) -> None:
        self._lanes.leave(urgent=self._urgent, group=namespace)
        if not sending.cancelled():
            sending.exception()  # read the result, also if no caller waits any more


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until_silent(lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines, until the stream is silent for too long. That is not an error: the next watch continues there."""
    while True:
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                line = await anext(lines)
        except (StopAsyncIteration, TimeoutError):
            return
        yield line


async def _changes(lines: AsyncIterator[bytes], path: str) -> AsyncGenerator[Change, None]:
    async for line in lines:
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            kind, changed = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as error:
            # A connection that breaks within a line leaves half an event.
            raise Unavailable(f"watch {path}: an event could not be read") from error
        if kind == "ERROR":
            raise _status_error(changed if isinstance(changed, dict) else {}, _code(changed), {}, f"watch {path}")
        if not _is_object(changed):
            raise Unavailable(f"watch {path}: an event without an object")
        yield Change(kind, changed)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {name: selector for name, selector in given.items() if selector}


def _is_object(answer: Any) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get("metadata"), dict)


def _code(status: Any) -> int:
    code = status.get("code") if isinstance(status, dict) else None
    return code if isinstance(code, int) and code >= 400 else 500


def _kind(path: str) -> str:
    """The resource in a path, such as `configmaps`, for metrics."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    return parts[2] if parts[:1] == ["namespaces"] and len(parts) > 2 else (parts[0] if parts else "")


def _namespace(path: str) -> str:
    """The namespace in a path; empty if there is none."""
    _, inside, rest = path.partition("/namespaces/")
    return rest.partition("/")[0] if inside and "/" in rest else ""


def _error(response: Response, what: str) -> KubernetesError:
    try:
        status = json.loads(response.body)
    except ValueError:
        status = {}
    return _status_error(status if isinstance(status, dict) else {}, response.status, response.headers, what)


def _status_error(status: Mapping[str, Any], code: int, headers: Mapping[str, str], what: str) -> KubernetesError:
    reason = str(status.get("reason") or "")
    message = f"{what}: {code} {status.get('message') or reason}".rstrip()
    if code == 429 or code >= 500:
        seconds = headers.get("retry-after") or (status.get("details") or {}).get("retryAfterSeconds")
        wait = parse_retry_after(str(seconds))
        return Unavailable(message, status=code, reason=reason, retry_after_seconds=wait)
    named: dict[int, type[KubernetesError]] = {404: NotFound, 409: Conflict, 410: Gone}
    return named.get(code, Refused)(message, status=code, reason=reason)
