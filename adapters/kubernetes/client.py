"""Read, write and watch Kubernetes objects as plain JSON, over any transport.

Statuses become errors named for the caller's next step, lists are paged, watches are followed for as long as the
caller wants. No typed API: generated models cost more time and memory than all the rest of a program.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal

from adapters.kubernetes.rate_limit import Lanes
from warmhook.ports import Object, Response, Transport, Unreachable
from warmhook.timestamps import parse_retry_after

__all__ = [
    "MERGE_PATCH",
    "Change",
    "Conflict",
    "Gone",
    "Kubernetes",
    "KubernetesError",
    "Listing",
    "NotFound",
    "NotServed",
    "Refused",
    "Unavailable",
]

MERGE_PATCH: Final = "application/merge-patch+json"
_JSON: Final = "application/json"
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

# Objects per page of a list; what client-go uses.
_PAGE: Final = 500
# For so long an answer is waited for whose asker has given up.
_AFTERWARDS_SECONDS: Final = 2.0
# A watch that says nothing for so long is dead: bookmarks come every minute. A connection whose packets are lost by a
# load balancer looks like a quiet one.
_SILENT_SECONDS: Final = 90.0
# The server answers a watch at once.
_OPEN_SECONDS: Final = 30.0
# How long the server is asked to keep a watch open; connections through load balancers rarely live longer.
_WATCH_SECONDS: Final = 290


class KubernetesError(Exception):
    """The API server did not do what was asked."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 where no answer came."""
        self.reason = reason
        """The `reason` of the Status object: `NotFound`, `AlreadyExists`, `Invalid`, ..."""


class Refused(KubernetesError):
    """Repeating the same request cannot help."""


class NotFound(Refused):
    """There is no such object (or kind, or namespace)."""


class NotServed(Refused):
    """There is no such kind: its CRD is not installed."""


class Conflict(KubernetesError):
    """The object exists already, or is no longer as it was read: read again, decide again."""


class Gone(KubernetesError):
    """That resourceVersion is no longer known: list again."""


class Unavailable(KubernetesError):
    """Overloaded, restarting or out of reach: the same request may work later."""

    def __init__(
        self, message: str, *, status: int = 0, reason: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message, status=status, reason=reason)
        self.retry_after_seconds = retry_after_seconds
        """What the server asked to wait; `None` where it did not say."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects that a list gave, over all its pages."""

    items: list[Object]
    resource_version: str
    """Where a watch continues."""


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class Kubernetes:
    """The API server as the programs use it."""

    def __init__(
        self,
        transport: Transport,
        *,
        count: Callable[[str, str, str], None] = lambda _kind, _verb, _code: None,
        lanes: Lanes | None = None,
        urgent: bool = False,
    ) -> None:
        """`count` gets resource, verb and status (or `unreachable`) of every answer.

        Those that share `lanes` share the number of requests in flight; `urgent` requests go before the others.
        """
        self._transport = transport
        self._count = count
        self._lanes = lanes or Lanes()
        self._urgent = urgent

    async def get(self, path: str, *, metadata_only: bool = False) -> Object:
        """The object as it is now. Raises `NotFound`, `Unavailable`, `Refused`."""
        return await self._ask("GET", path, accept=_METADATA if metadata_only else _JSON)

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
        """All objects that match both selectors, in pages of `page` objects, of each what `keep` keeps.

        With `not_older_than`, a resourceVersion, the server may answer from its cache as soon as that is as new;
        without it the read is consistent. Raises `Gone` when the list took longer than its first page is remembered,
        and `NotServed` where there is no such kind: a list in a namespace that is missing is empty.
        """
        query = {"limit": str(page)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        if not_older_than:
            query |= {"resourceVersion": not_older_than, "resourceVersionMatch": "NotOlderThan"}
        items: list[Object] = []
        while True:
            try:
                answer = await self._ask(
                    "GET", path, query=query, accept=_METADATA_LIST if metadata_only else _JSON, timeout_seconds=30
                )
            except NotFound as error:
                raise NotServed(str(error), status=error.status, reason=error.reason) from error
            page_items = answer.get("items") or []
            if not (
                _is_object(answer) and isinstance(page_items, list) and all(isinstance(it, dict) for it in page_items)
            ):
                # As of a proxy in between.
                raise Unavailable(f"GET {path}: the answer is no list of objects")
            items += map(keep, page_items)
            more = answer["metadata"].get("continue")
            if not more:
                return Listing(items, answer["metadata"].get("resourceVersion", ""))
            query.pop("resourceVersion", None)
            query.pop("resourceVersionMatch", None)
            query["continue"] = more

    async def create(self, path: str, body: Object) -> Object:
        """Create an object below the collection `path`. Raises `Conflict` where it exists."""
        return await self._ask("POST", path, body=body)

    async def replace(self, path: str, body: Object) -> Object:
        """Write the whole object; with a resourceVersion in it, only over that version."""
        return await self._ask("PUT", path, body=body)

    async def patch(self, path: str, body: Object) -> Object:
        """Apply a JSON merge patch and return the object."""
        return await self._ask("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def patch_size(self, path: str, body: Object) -> int:
        """Apply a JSON merge patch and return the size of the object in bytes, without reading it."""
        response = await self._send("PATCH", path, body=body, content_type=MERGE_PATCH)
        return len(response.body)

    async def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> None:
        """Delete the object, with a uid or resourceVersion only that one. Absent already is fine.

        Raises `Conflict` where the precondition does not hold.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body = {"preconditions": {name: value for name, value in preconditions.items() if value}}
        try:
            await self._send("DELETE", path, body=body)
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
        """Every change after `resource_version`, until the server closes the watch or is silent; bookmarks included.

        `opened` is called once the server has begun to answer: the first change may take long. Raises `Gone` (list
        again), `Unavailable` (also for an ERROR event of the stream: wait, then watch again) or `Refused`.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
            "resourceVersion": resource_version,
        }
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        headers = {"accept": _METADATA if metadata_only else _JSON}
        kind = _kind(path)
        try:
            async with AsyncExitStack() as stack:
                opening = self._transport.stream(
                    path, query=query, headers=headers, timeout_seconds=_WATCH_SECONDS + 30
                )
                async with asyncio.timeout(_OPEN_SECONDS):
                    stream = await stack.enter_async_context(opening)
                self._count(kind, "watch", str(stream.status))
                if stream.status != 200:
                    body = b"".join([line async for line in stream.lines])
                    raise _error(Response(stream.status, stream.headers, body), f"watch {path}")
                opened()
                async with aclosing(_until_silent(stream.lines)) as lines, aclosing(_changes(lines, path)) as changes:
                    async for change in changes:
                        yield change
        except (Unreachable, TimeoutError) as error:
            self._count(kind, "watch", "unreachable")
            problem = str(error) or f"the API server did not begin to answer within {_OPEN_SECONDS:g} seconds"
            raise Unavailable(f"watch {path}: {problem}") from error

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        timeout_seconds: float = 10,
    ) -> Object:
        response = await self._send(method, path, query, body, content_type, accept, timeout_seconds)
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
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        timeout_seconds: float = 10,
    ) -> Response:
        headers = {"accept": accept}
        if body is not None:
            headers["content-type"] = content_type
        kind = _kind(path)
        namespace = "" if method == "GET" or kind == "configmaps" else _namespace(path)
        await self._lanes.enter(urgent=self._urgent, group=namespace)
        sending = asyncio.create_task(
            self._transport.request(
                method, path, query=query or {}, headers=headers, body=body, timeout_seconds=timeout_seconds
            ),
            name=f"{method} {kind}",
        )
        sending.add_done_callback(lambda ended: self._ended(ended, namespace))
        try:
            response = await asyncio.shield(sending)
        except asyncio.CancelledError:
            # An answer that nobody waits for is worth waiting for: to break off costs the connection, and a server that
            # is slow already would have to shake hands for another one.
            asyncio.get_running_loop().call_later(_AFTERWARDS_SECONDS, sending.cancel)
            raise
        except Unreachable as error:
            self._count(kind, method.lower(), "unreachable")
            raise Unavailable(f"{method} {path}: {error}") from error
        self._count(kind, method.lower(), str(response.status))
        if response.status >= 400:
            raise _error(response, f"{method} {path}")
        return response

    def _ended(self, sending: asyncio.Task[Response], namespace: str) -> None:
        self._lanes.leave(urgent=self._urgent, group=namespace)
        if not sending.cancelled():
            sending.exception()  # looked at, also where nobody waits any more


async def _until_silent(lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines, until none came for too long. That is no error: the next watch goes on where this one stopped."""
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
            # A connection that breaks in the middle of a line leaves half an event.
            raise Unavailable(f"watch {path}: an event could not be read") from error
        if kind == "ERROR":
            raise _status_error(changed if isinstance(changed, dict) else {}, _code(changed), {}, f"watch {path}")
        if not _is_object(changed):
            raise Unavailable(f"watch {path}: an event without an object")
        yield Change(kind, changed)


def _is_object(answer: Any) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get("metadata"), dict)


def _code(status: Any) -> int:
    code = status.get("code") if isinstance(status, dict) else None
    return code if isinstance(code, int) and code >= 400 else 500


def _kind(path: str) -> str:
    """The resource that a path is about: `configmaps`, for metrics."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    return parts[2] if parts[:1] == ["namespaces"] and len(parts) > 2 else (parts[0] if parts else "")


def _namespace(path: str) -> str:
    """The namespace in which the object is; empty where it is in none."""
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
    if code == 404:
        return NotFound(message, status=code, reason=reason)
    if code == 409:
        return Conflict(message, status=code, reason=reason)
    if code == 410:
        return Gone(message, status=code, reason=reason)
    if code == 429 or code >= 500:
        seconds = headers.get("retry-after") or (status.get("details") or {}).get("retryAfterSeconds")
        wait = parse_retry_after(str(seconds))
        return Unavailable(message, status=code, reason=reason, retry_after_seconds=wait)
    return Refused(message, status=code, reason=reason)
