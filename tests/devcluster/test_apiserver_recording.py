"""The embedded API server answers as a recorded real one did, request by request.

`WARMHOOK_TEST_APISERVER` names the folder of the recording. Not compared: uids, times, values of resourceVersion (their
order is), managedFields, messages, and the two entries about authentication.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from devcluster.apiserver.core import ApiServer, is_watch
from tests.support.instant import instantly
from warmhook.ports import Json, Object, Response

_FOLDER = os.environ.get("WARMHOOK_TEST_APISERVER")
_UNKEPT = (
    "continue",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "message",
    "resourceVersion",
    "storageVersionHash",
    "uid",
)
_AUTHENTICATION = ("core-resources-unauthorized", "bad-token")
_VARYING = ("version", "api-versions")
"""Documents whose values differ from cluster to cluster: only their kind and what clients read of them is compared."""

pytestmark = pytest.mark.skipif(_FOLDER is None, reason="WARMHOOK_TEST_APISERVER names no recording")


def _comparable(value: Json) -> Json:
    if isinstance(value, dict):
        kept = {key: _comparable(member) for key, member in value.items() if key not in _UNKEPT}
        if re.fullmatch(r"[exp]-[a-z0-9]{5}", str(kept.get("name"))):
            kept["name"] = "<generated>"
        if "verbs" in kept:
            kept["verbs"].sort()
        return kept
    return [_comparable(item) for item in value] if isinstance(value, list) else value


class _Replay:
    """The recording's requests, sent to a fresh server."""

    def __init__(self) -> None:
        self.server = ApiServer(lambda: datetime.now(UTC), Random(0))
        self.versions: dict[int, int] = {}
        """Recorded resourceVersion -> ours."""
        self._uid = ""
        self._continue = ""

    def handle(
        self, method: str, url: str, body: Json = None, kind: str = "application/json", **headers: str
    ) -> Response:
        """Send one request with what the recording left out put back."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._localize(query)
        content = body.encode() if isinstance(body, str) else b"" if body is None else json.dumps(body).encode()
        content = content.replace(b"<1,100,000 x>", b"x" * 1_100_000).replace(b"<uid>", self._uid.encode())
        return self.server.handle(method, parts.path, query, {"content-type": kind, **headers}, content)

    def _localize(self, holder: dict[str, str]) -> None:
        if "continue" in holder:
            holder["continue"] = self._continue
        version = holder.get("resourceVersion", "")
        if version.isdigit() and int(version) in self.versions:
            holder["resourceVersion"] = str(self.versions[int(version)])

    def learn(self, recorded: Json, ours: Json) -> None:
        """Note which of our versions stands for which recorded one."""
        if not isinstance(recorded, dict) or not isinstance(ours, dict):
            return
        theirs, mine = recorded.get("metadata") or {}, ours.get("metadata") or {}
        if "resourceVersion" in theirs:
            self.versions[int(theirs["resourceVersion"])] = int(mine["resourceVersion"])
        self._continue = mine.get("continue", self._continue)
        self._uid = mine.get("uid", self._uid)
        for pair in zip(recorded.get("items") or [], ours.get("items") or [], strict=False):
            self.learn(*pair)

    def one(self, entry: Object) -> tuple[Json, Json]:
        """The recorded answer and ours, comparable."""
        request, recorded = entry["request"], entry["response"]
        body = request.get("body")
        if isinstance(body, dict) and isinstance(body.get("metadata"), dict):
            body = {**body, "metadata": dict(body["metadata"])}
            self._localize(body["metadata"])
        kind = request.get("contentType", "application/json")
        answer = self.handle(request["method"], request["path"], body, kind, accept=request["accept"])
        assert answer.headers["content-type"].startswith(recorded["contentType"].partition(";")[0])
        if recorded["contentType"].startswith("text/plain"):
            return (recorded["status"], recorded["body"]), (answer.status, answer.body.decode())
        ours = json.loads(answer.body)
        theirs = recorded["body"]
        assert ("Warning" in recorded) == ("warning" in answer.headers)
        self.learn(theirs, ours)
        if entry["name"] in _VARYING:
            theirs, ours = ({"kind": value.get("kind")} for value in (theirs, ours))
        return (recorded["status"], _comparable(theirs)), (answer.status, _comparable(ours))

    def watched(self, entry: Object) -> tuple[Json, Json]:
        """The recorded events and ours, comparable."""
        parts = urlsplit(entry["request"]["path"])
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        assert is_watch("GET", query)
        self._localize(query)
        watch = self.server.watch(parts.path, query, {"accept": entry["request"]["accept"]})
        assert not isinstance(watch, Response)

        async def read() -> list[Json]:
            return [json.loads(line) async for line in watch.lines()]

        ours = instantly(read())
        theirs = [event for event in entry["watch"] if "_status" not in event]
        for recorded, event in zip(theirs, ours, strict=False):
            if recorded["type"] not in ("ERROR", "BOOKMARK"):
                self.learn(recorded["object"], event["object"])
        return _comparable(theirs), _comparable(ours)


_MERGE = "application/merge-patch+json"
_CONFIGMAPS = "/api/v1/namespaces/warmhook-system/configmaps"


def _line(version: str | None, data: str) -> Object:
    return {"metadata": {"labels": {"line.warmhook.dev/aaaa": version}}, "data": {"k": data}}


def _three_more(replay: _Replay) -> None:
    for name, kind, line in (
        ("warmhook-desired-n2", "desired", "v2"),
        ("warmhook-desired-n3", "desired", "v3"),
        ("warmhook-report-n1", "report", "warm-v2"),
    ):
        labels = {"warmhook.dev/kind": kind, "line.warmhook.dev/aaaa": line}
        replay.handle("POST", _CONFIGMAPS, {"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}})


def _what_the_watches_saw(replay: _Replay) -> None:
    one, two = f"{_CONFIGMAPS}/warmhook-desired-n1", f"{_CONFIGMAPS}/warmhook-desired-n2"
    replay.handle("PATCH", one, {"data": {"w": "1"}}, _MERGE)
    replay.handle("PATCH", one, {"data": {"w": "1"}}, _MERGE)
    replay.handle("PATCH", two, _line("v2", "w"), _MERGE)
    replay.handle("DELETE", one)
    replay.handle("POST", _CONFIGMAPS, {"metadata": {"name": "warmhook-desired-n1"}, "data": {"w": "2"}})
    replay.handle("PATCH", two, _line(None, "w"), _MERGE)
    replay.handle("PATCH", two, _line("v3", "w"), _MERGE)


def _finalizer(replay: _Replay) -> None:
    path = "/apis/warmhook.dev/v1alpha1/namespaces/warmhook-system/warmimages/app"
    replay.handle("PATCH", path, {"metadata": {"finalizers": ["warmhook.dev/test"]}}, _MERGE)


_UNRECORDED: dict[str, Callable[[_Replay], None]] = {
    "list-by-label-metadata-only": _three_more,
    "watch-one-configmap-by-name": _what_the_watches_saw,
    "custom-delete-with-finalizer": _finalizer,
}
"""Writes that the recording shows only by their effect, by the entry they come before."""


def _entries() -> list[Object]:
    entries: list[Object] = json.loads((Path(_FOLDER or ".") / "transcript.json").read_text())
    return entries


@pytest.fixture(scope="module")
def replayed() -> tuple[dict[str, tuple[Any, Any]], dict[int, int]]:
    """Every entry's recorded and own answer, in the order of the recording, and the versions met."""
    replay = _Replay()
    answers: dict[str, tuple[Any, Any]] = {}
    for entry in _entries():
        if entry["name"] in _AUTHENTICATION:
            continue
        if write := _UNRECORDED.get(entry["name"]):
            write(replay)
        answers[entry["name"]] = replay.watched(entry) if "watch" in entry else replay.one(entry)
    return answers, replay.versions


@pytest.mark.parametrize(
    "name", [entry["name"] for entry in (_entries() if _FOLDER else []) if entry["name"] not in _AUTHENTICATION]
)
def test_the_answer_is_the_recorded_one(name: str, replayed: tuple[dict[str, tuple[Any, Any]], dict[int, int]]) -> None:
    recorded, ours = replayed[0][name]
    assert ours == recorded


def test_resource_versions_have_the_recorded_order(
    replayed: tuple[dict[str, tuple[Any, Any]], dict[int, int]],
) -> None:
    ours = [mine for _, mine in sorted(replayed[1].items())]
    assert len(ours) > 20
    assert ours == sorted(set(ours))
