"""Every kind has resourceVersions of its own, as where an etcd serves one resource, and none is used for another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.warmimage import read_warmimage
from devcluster.apiserver import InProcessTransport
from tests.handlers.test_push_cost import Local
from tests.handlers.world import HOST, World, digest, in_world
from warmhook.node_lines import line_of
from warmhook.node_report import LineReport
from warmhook.ports import Object, Response, Stream

APART: Final = 10**9
"""Between the versions of two kinds."""
KINDS: Final = ("configmaps", "nodes", "warmimages", "warmpolicies")


class OwnVersions(InProcessTransport):
    """The same API server, each of whose kinds counts for itself."""

    foreign: list[str]
    """Versions of another kind that were asked for."""

    def __init__(self, given: InProcessTransport) -> None:
        super().__init__(given.server, user_agent=given._user_agent, before=given.before)
        self.foreign = []

    async def request(self, method: str, path: str, **given: Any) -> Response:
        given["query"] = self._query(path, given.get("query") or {})
        if given.get("body") is not None:
            given["body"] = self._moved(given["body"], lambda version: self._inside(path, version))
        answer = await super().request(method, path, **given)
        try:
            body = self._moved(json.loads(answer.body), lambda version: self._outside(path, version))
        except ValueError:
            return answer
        return Response(answer.status, answer.headers, json.dumps(body).encode())

    @asynccontextmanager
    async def _stream(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> AsyncIterator[Stream]:
        async with super()._stream(path, self._query(path, query), headers) as stream:

            async def lines() -> AsyncIterator[bytes]:
                async for line in stream.lines:
                    moved = self._moved(json.loads(line), lambda version: self._outside(path, version))
                    yield json.dumps(moved).encode()

            yield Stream(stream.status, stream.headers, lines())

    def _query(self, path: str, query: Mapping[str, str]) -> dict[str, str]:
        version = query.get("resourceVersion", "")
        return {**query, "resourceVersion": self._inside(path, version)} if version else dict(query)

    def _inside(self, path: str, version: str) -> str:
        if not version or version == "0":
            return version
        inside = int(version) - _offset(path)
        if not 0 < inside < APART:
            self.foreign.append(f"{version} of {path}")
        return str(inside)

    def _outside(self, path: str, version: str) -> str:
        return str(int(version) + _offset(path)) if version else version

    def _moved(self, body: Any, move: Any) -> Any:
        """A copy with every resourceVersion moved."""
        if isinstance(body, dict):
            return {
                name: move(part) if name == "resourceVersion" and isinstance(part, str) else self._moved(part, move)
                for name, part in body.items()
            }
        return [self._moved(part, move) for part in body] if isinstance(body, list) else body


def _offset(path: str) -> int:
    kind = next((kind for kind in KINDS if f"/{kind}" in path), None)
    return APART * (1 + KINDS.index(kind)) if kind else 0


async def warm(world: World, node: str) -> None:
    """The agent of a node reports that all its lines are warm."""
    lines = [line_of(read_warmimage(obj)) for obj in (await world.warmimages()).values()]
    await world.report(node, {line.key: LineReport(line.version, "warm") for line in lines})


@pytest.mark.parametrize("in_process", [False, True], ids=["posted", "in process"])
@in_world()
async def test_no_version_of_one_kind_is_asked_of_another(world: World, *, in_process: bool) -> None:
    world.transport = OwnVersions(world.transport)
    world.client, local = world.new_client(world.new_app()), Local(world)
    watching = OwnVersions(InProcessTransport(world.server, user_agent="watch"))
    await world.add_nodes("a", "b")
    await world.add_policy()
    async with world.watching(local.post if in_process else None, transport=watching):
        await world.clock.sleep(30)
        for number, tag in enumerate(("v1", "v1", "v2")):
            await (local.push if in_process else world.push)(tag, content=digest(str(number)))
            await world.clock.sleep(30)
        await world.add_nodes("c")
        await warm(world, "a")
        await world.clock.sleep(30)
        images = [f"{HOST}/shop/app:v2"]
        assert await world.lines() == {"a": images, "b": images, "c": images}
        assert (await world.warmimages())[images[0]]["status"]["warm"] == 1
        await world.admin.patch(f"{paths.NODES}/a", {"metadata": {"labels": {"kubernetes.io/os": "windows"}}})
        await world.admin.delete(paths.node("b"))
        await world.clock.sleep(400)
        assert (await world.lines())["a"] == []
    assert (world.transport.foreign, watching.foreign) == ([], [])


def test_a_version_of_another_kind_is_noticed() -> None:
    object_: Object = {"metadata": {"resourceVersion": "7"}}
    transport = OwnVersions.__new__(OwnVersions)
    transport.foreign = []
    assert transport._moved(object_, lambda version: transport._outside(paths.NODES, version)) == {
        "metadata": {"resourceVersion": str(2 * APART + 7)}
    }
    transport._query(paths.warmimages(), {"resourceVersion": str(2 * APART + 7)})
    assert transport.foreign == [f"{2 * APART + 7} of {paths.warmimages()}"]
