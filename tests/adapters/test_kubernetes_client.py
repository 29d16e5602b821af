"""Answers of the API server become errors that name the next step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Change, Kubernetes
from adapters.kubernetes.errors import Conflict, Gone, KubernetesError, NotFound, Refused, Unavailable
from adapters.kubernetes.rate_limit import Lanes
from tests.support.instant import instant, instantly
from warmhook.ports import Json, Response, Stream, Unreachable
from warmhook.warmimages import ObjectKey

PATH = paths.configmaps("default")


class Scripted:
    """A transport that answers from a list and remembers what it was asked."""

    def __init__(self, *answers: Response | Exception, lines: tuple[bytes | Exception, ...] = ()) -> None:
        self.answers = list(answers)
        self.lines = lines
        self.asked: list[tuple[str, str, dict[str, str], dict[str, str], Json]] = []
        self.at_once = self.most_at_once = 0

    async def request(self, method: str, path: str, **given: Any) -> Response:
        query, headers = (dict(given.get(name) or {}) for name in ("query", "headers"))
        self.asked.append((method, path, query, headers, given.get("body")))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @asynccontextmanager
    async def stream(self, path: str, **_more: Any) -> AsyncIterator[Stream]:
        first = self.answers[0] if self.answers else Response(200, {}, b"")
        if isinstance(first, Exception):
            raise first
        yield Stream(first.status, first.headers, self._lines(first.body))

    async def _lines(self, body: bytes) -> AsyncGenerator[bytes, None]:
        if body:
            yield body
        for line in self.lines:
            if isinstance(line, Exception):
                raise line
            yield line


def answer(code: int, body: Json = None, **headers: str) -> Response:
    return Response(code, {name.replace("_", "-"): text for name, text in headers.items()}, json.dumps(body).encode())


def problem(code: int, reason: str = "", **more: Any) -> Response:
    return answer(code, {"kind": "Status", "code": code, "reason": reason, "message": "why", **more})


def raised(response: Response | Exception) -> KubernetesError:
    with pytest.raises(KubernetesError) as caught:
        instantly(Kubernetes(Scripted(response)).get(f"{PATH}/x"))
    return caught.value


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (problem(400), Refused),
        (problem(401), Refused),
        (problem(403, "Forbidden"), Refused),
        (problem(404, "NotFound"), NotFound),
        (problem(409, "AlreadyExists"), Conflict),
        (problem(410, "Expired"), Gone),
        (problem(422, "Invalid"), Refused),
        (problem(429), Unavailable),
        (problem(500), Unavailable),
        (problem(503), Unavailable),
        (problem(504), Unavailable),
        (Response(502, {}, b"<html>bad gateway</html>"), Unavailable),
        (Response(500, {}, b"[]"), Unavailable),
        (Response(200, {}, b"<html>captive portal</html>"), Unavailable),
        (Response(200, {}, b"[]"), Unavailable),
        (Unreachable("refused"), Unavailable),
    ],
)
def test_every_answer_says_what_to_do_next(response: Response | Exception, error: type[KubernetesError]) -> None:
    assert type(raised(response)) is error


def test_an_error_names_the_request_the_status_and_the_reason() -> None:
    error = raised(problem(403, "Forbidden"))
    assert (str(error), error.status, error.reason) == (f"GET {PATH}/x: 403 why", 403, "Forbidden")


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        (answer(429, {}, retry_after="7"), 7.0),
        (problem(504, details={"retryAfterSeconds": 3}), 3.0),
        (answer(503, {}, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), None),
        (answer(503, {}), None),
    ],
)
def test_the_wait_that_the_server_asks_for_is_kept(response: Response, seconds: float | None) -> None:
    error = raised(response)
    assert isinstance(error, Unavailable)
    assert error.retry_after_seconds == seconds


def test_a_list_reads_all_its_pages_and_asks_for_a_version_only_at_the_first() -> None:
    transport = Scripted(
        answer(200, {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"n": 1}]}),
        answer(200, {"metadata": {"resourceVersion": "7"}, "items": [{"n": 2}]}),
    )
    listing = instantly(
        Kubernetes(transport).list(PATH, labels="a=b", fields="c=d", metadata_only=True, not_older_than="5")
    )
    assert (listing.items, listing.resource_version) == ([{"n": 1}, {"n": 2}], "7")
    first, second = (query for _, _, query, _, _ in transport.asked)
    assert first == {
        "limit": "500",
        "labelSelector": "a=b",
        "fieldSelector": "c=d",
        "resourceVersion": "5",
        "resourceVersionMatch": "NotOlderThan",
    }
    assert second == {"limit": "500", "labelSelector": "a=b", "fieldSelector": "c=d", "continue": "more"}
    assert "PartialObjectMetadataList" in transport.asked[0][3]["accept"]


def test_a_list_without_items_is_empty() -> None:
    transport = Scripted(answer(200, {"metadata": {"resourceVersion": "1"}, "items": None}))
    assert instantly(Kubernetes(transport).list(PATH)).items == []


def test_a_delete_names_what_it_means_and_what_is_gone_is_fine() -> None:
    transport = Scripted(answer(404, {}))
    instantly(Kubernetes(transport).delete(f"{PATH}/x", uid="u", resource_version="3"))
    assert transport.asked[0][4] == {"preconditions": {"uid": "u", "resourceVersion": "3"}}


@instant
async def test_never_more_than_thirty_two_requests_are_in_flight() -> None:
    transport = Scripted(answer(200, {}))
    kubernetes = Kubernetes(transport)
    await asyncio.gather(*(kubernetes.get(PATH) for _ in range(100)))
    assert transport.most_at_once == 28  # the rest is for urgent ones


@instant
async def test_urgent_requests_share_the_places_and_go_first() -> None:
    transport = Scripted(answer(200, {}))
    lanes = Lanes()
    kubernetes, urgent = Kubernetes(transport, lanes=lanes), Kubernetes(transport, lanes=lanes, urgent=True)
    patches = [asyncio.create_task(kubernetes.get(f"{PATH}/{number}")) for number in range(100)]
    await asyncio.sleep(0)
    await urgent.get(f"{PATH}/urgent")
    await asyncio.gather(*patches)
    assert [each[1] for each in transport.asked].index(f"{PATH}/urgent") == 28
    assert transport.most_at_once <= 32


@instant
async def test_an_answer_that_nobody_waits_for_any_more_is_waited_for_a_little_and_then_broken_off() -> None:
    ended: list[str] = []

    class Slow(Scripted):
        async def request(self, method: str, path: str, **more: Any) -> Response:
            try:
                await asyncio.sleep(float(path.rpartition("/")[2]))
            except asyncio.CancelledError:
                ended.append(f"{path} broken off")
                raise
            ended.append(f"{path} answered")
            return Response(200, {}, b"{}")

    kubernetes = Kubernetes(Slow())
    for seconds in ("1", "60"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await kubernetes.get(f"/api/v1/nodes/{seconds}")
    await asyncio.sleep(10)
    assert ended == ["/api/v1/nodes/1 answered", "/api/v1/nodes/60 broken off"]


@instant
async def test_every_answer_is_counted_by_resource_verb_and_code() -> None:
    counted: list[tuple[str, str, str, float]] = []
    transport = Scripted(answer(200, {}), answer(404, {}), Unreachable("x"))
    kubernetes = Kubernetes(transport, count=lambda *answer: counted.append(answer))
    await kubernetes.get(PATH)
    await kubernetes.delete(paths.warmimages(ObjectKey("a", "b")))
    with pytest.raises(Unavailable):
        await kubernetes.patch(paths.node("n"), {})
    assert [answer[:3] for answer in counted] == [
        ("configmaps", "get", "200"),
        ("warmimages", "delete", "404"),
        ("nodes", "patch", "unreachable"),
    ]


@instant
async def test_the_seconds_of_an_answer_are_counted() -> None:
    class Slow(Scripted):
        async def request(self, method: str, path: str, **more: Any) -> Response:
            await asyncio.sleep(3)
            return Response(200, {}, b"{}")

    counted: list[float] = []
    kubernetes = Kubernetes(Slow(), count=lambda _kind, _verb, _code, seconds: counted.append(seconds))
    await kubernetes.get(PATH)
    assert counted == [3.0]


# --- watching --------------------------------------------------------------------------------------------------------


def line(kind: str, obj: Any) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode()


def watched(transport: Scripted) -> tuple[list[Change], KubernetesError | None]:
    async def follow() -> tuple[list[Change], KubernetesError | None]:
        changes: list[Change] = []
        try:
            async for change in Kubernetes(transport).watch(PATH, resource_version="1"):
                changes.append(change)  # noqa: PERF401 - what came before an error counts
        except KubernetesError as error:
            return changes, error
        return changes, None

    return instantly(follow())


def test_a_watch_gives_every_change_until_the_server_ends_it() -> None:
    obj = {"metadata": {"name": "x"}}
    changes, error = watched(Scripted(lines=(line("ADDED", obj), b"", line("BOOKMARK", obj))))
    assert (changes, error) == ([Change("ADDED", obj), Change("BOOKMARK", obj)], None)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ((line("ERROR", {"code": 410, "reason": "Expired"}),), Gone),
        ((line("ERROR", {"code": 504, "details": {"retryAfterSeconds": 1}}),), Unavailable),
        ((line("ERROR", {"code": "broken"}),), Unavailable),
        ((line("ERROR", "broken"),), Unavailable),
        ((line("ADDED", "broken"),), Unavailable),
        ((line("ADDED", {}),), Unavailable),
        ((b'{"type":"ADDED","obj',), Unavailable),
        ((b"[]",), Unavailable),
        ((Unreachable("cut"),), Unavailable),
    ],
)
def test_a_watch_that_breaks_keeps_what_it_gave(lines: tuple[bytes | Exception, ...], error: type[Exception]) -> None:
    obj = {"metadata": {"name": "x"}}
    changes, problem = watched(Scripted(lines=(line("ADDED", obj), *lines)))
    assert changes == [Change("ADDED", obj)]
    assert type(problem) is error


def test_a_watch_that_is_refused_says_so() -> None:
    assert isinstance(watched(Scripted(problem(403)))[1], Refused)
    assert isinstance(watched(Scripted(problem(429)))[1], Unavailable)
    assert isinstance(watched(Scripted(Unreachable("x")))[1], Unavailable)


def test_names_from_outside_stay_one_segment_of_the_path() -> None:
    assert paths.node("../secrets") == "/api/v1/nodes/..%2Fsecrets"
    assert paths.warmimages(ObjectKey("a/b", "c?d")).endswith("/namespaces/a%2Fb/warmimages/c%3Fd")
    assert paths.status(paths.warmimages(ObjectKey("a", "b"))).endswith("/namespaces/a/warmimages/b/status")


class Silent(Scripted):
    """A connection that breaks without a word: after the lines nothing comes, or not even an answer."""

    def __init__(self, *lines: bytes, answers_watches: bool = True) -> None:
        super().__init__(lines=lines)
        self.answers_watches = answers_watches

    @asynccontextmanager
    async def stream(self, path: str, **more: Any) -> AsyncIterator[Stream]:
        if not self.answers_watches:
            await asyncio.Event().wait()
        async with super().stream(path, **more) as stream:
            yield stream

    async def _lines(self, body: bytes) -> AsyncGenerator[bytes, None]:
        async for one in super()._lines(body):
            await asyncio.sleep(60)
            yield one
        await asyncio.Event().wait()


def test_a_watch_that_falls_silent_for_longer_than_bookmarks_take_ends() -> None:
    obj = {"metadata": {"name": "x"}}

    async def follow() -> tuple[int, float]:
        watch = Kubernetes(Silent(*[line("BOOKMARK", obj)] * 3)).watch(PATH, resource_version="1")
        return len([change async for change in watch]), asyncio.get_running_loop().time()

    changes, ended = instantly(follow())
    assert changes == 3
    assert 3 * 60 + 90 <= ended < 3 * 60 + 91


def test_a_watch_that_is_not_answered_is_unavailable_within_30_seconds() -> None:
    async def follow() -> float:
        with pytest.raises(Unavailable, match="did not begin to answer"):
            await anext(Kubernetes(Silent(answers_watches=False)).watch(PATH, resource_version="1"))
        return asyncio.get_running_loop().time()

    assert instantly(follow()) < 31
