"""`warmhook status --wait` follows an image by watches until its nodes are warm, come no further, or time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, Refused
from cli.cluster import Cluster
from cli.errors import Failed
from cli.main import main
from cli.output import OutputFormat
from cli.status.wait import SignedOut, wait_for_image
from devcluster.apiserver import InProcessTransport
from tests.cli.commands import cluster_of, report, shown
from tests.handlers.world import DIGEST, HOST, World, digest, in_world, status
from tests.support.terminal import terminal
from warmhook.image_query import parse_query
from warmhook.ports import Unreachable
from warmhook.warmimages import ObjectKey

IMAGE = f"{HOST}/shop/app:v1"


def wait(
    cluster: Cluster, image: str = IMAGE, seconds: int = 600, output: OutputFormat = "table"
) -> Coroutine[Any, Any, int]:
    return wait_for_image(cluster, parse_query(image), seconds, output)


@in_world(nodes="ab", policy=True)
async def test_a_push_that_comes_later_is_followed_until_all_nodes_are_warm(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = asyncio.create_task(wait(cluster_of(world)))
    await asyncio.sleep(5)
    await world.push()
    (name,) = (obj["metadata"]["name"] for obj in (await world.warmimages()).values())
    await world.changed("WarmImage", name)
    await report(world, "a", {name: "warm"})
    await report(world, "b", {name: "pulling"})
    await world.reported(name)
    await asyncio.sleep(5)
    await report(world, "b", {name: "warm"})
    await world.reported(name)
    assert await waiting == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"waiting for a WarmImage of {IMAGE} in namespace shop"
    assert f"{IMAGE}: 1 of 2 nodes, 1 pulling" in lines
    assert lines[-1] == f"{IMAGE} is warm: 2 of 2 nodes"
    assert len(set(lines)) == len(lines)


@in_world(nodes="ab", warmimage="app")
async def test_a_wait_ends_at_once_if_the_nodes_come_no_further_and_says_which_and_why(world: World) -> None:
    await world.sync()
    await report(world, "a", {"app": "warm"})
    await report(world, "b", {"app": "failed"}, reason="NotFound", message="no such tag")
    await world.sync()
    with pytest.raises(Failed) as caught:
        await wait(cluster_of(world))
    assert caught.value.exit_code == 1
    assert caught.value.message.splitlines() == [
        f"{IMAGE} is not warm: 1 of 2 nodes, 1 failed",
        "  NotFound on b: no such tag",
    ]


@in_world(nodes="ab", warmimage="app")
async def test_a_wait_is_over_with_its_time_and_says_how_far_it_came(world: World) -> None:
    await world.sync()
    began = world.monotonic()
    with pytest.raises(Failed, match=rf"^not warm in time: {IMAGE}: 0 of 2 nodes, 2 waiting$"):
        await wait(cluster_of(world), seconds=90)
    assert world.monotonic() - began == pytest.approx(90, abs=1)


@in_world(nodes="a", warmimage="app")
async def test_an_image_that_is_stopped_is_not_waited_for(world: World) -> None:
    await world.admin.patch(paths.warmimages(ObjectKey("shop", "app")), {"spec": {"suspend": True}})
    await world.sync()
    with pytest.raises(Failed, match="is not pulled: Suspended: 0 of 1 nodes warm; nodes pull nothing for now"):
        await wait(cluster_of(world))


@in_world(nodes="a", policy=True)
async def test_a_digest_is_waited_for_although_the_tag_is_warm_with_another(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.push(ago=60)
    (name,) = (obj["metadata"]["name"] for obj in (await world.warmimages()).values())
    await world.sync()
    await report(world, "a", {name: "warm"})
    await world.sync()
    waiting = asyncio.create_task(wait(cluster_of(world), f"{IMAGE}@{digest('b')}"))
    await asyncio.sleep(5)
    await world.push(content=digest("b"))
    await world.sync()
    await report(world, "a", {name: "warm"})
    await world.sync()
    assert await waiting == 0
    assert capsys.readouterr().out.startswith(f"{IMAGE}: waiting for {digest('b')}; it has {DIGEST} so far\n")


@in_world(nodes="a", warmimage="app")
async def test_programs_get_one_document_and_no_progress(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    await world.sync()
    with pytest.raises(Failed):
        await wait(cluster_of(world), seconds=5, output="json")
    found = shown(capsys)
    assert (found["warm"], found["warmImages"][0]["waiting"]) == (False, 1)


@in_world(nodes="a", warmimage="app")
async def test_other_images_and_the_end_of_a_warmimage_are_seen(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.sync()
    await world.add_warmimage("other", f"{HOST}/shop/other:v1")
    waiting = asyncio.create_task(wait(cluster_of(world), seconds=60))
    await asyncio.sleep(5)
    await world.admin.delete(paths.warmimages(ObjectKey("shop", "app")))
    with pytest.raises(Failed, match="not warm in time: waiting for a WarmImage"):
        await waiting
    assert "other" not in capsys.readouterr().out


class Interrupted:
    """A cluster whose API server answers with errors from now on, or does not."""

    def __init__(self, world: World) -> None:
        self.answer: Exception | Any = None
        self.transport = InProcessTransport(world.server, user_agent="cli", before=self._before)
        before = cluster_of(world)
        self.cluster = Cluster(Kubernetes(self.transport), *(getattr(before, name) for name in _OTHERS))

    async def _before(self, _method: str, _path: str) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


_OTHERS = ("reader", "transport", "clock", "host", "origin", "namespace", "system_namespace")


@pytest.mark.parametrize(
    ("answer", "error"), [(Unreachable("refused"), KubernetesError), (status(403, "Forbidden"), Refused)]
)
@in_world(nodes="a", warmimage="app")
async def test_nobody_waits_for_a_server_that_was_never_there_or_for_a_right(
    world: World, answer: Any, error: type[Exception]
) -> None:
    interrupted = Interrupted(world)
    interrupted.answer = answer
    began = world.monotonic()
    with pytest.raises(error):
        await wait(interrupted.cluster)
    assert world.monotonic() - began < 1


@in_world(nodes="a", warmimage="app")
async def test_a_token_that_ends_meanwhile_is_told_apart_from_one_that_was_never_taken(world: World) -> None:
    interrupted = Interrupted(world)
    waiting = asyncio.create_task(wait(interrupted.cluster))
    await asyncio.sleep(5)
    interrupted.answer = status(401, "Unauthorized")
    world.server.end_watches()
    with pytest.raises(SignedOut):
        await waiting
    with pytest.raises(Refused):
        await wait(interrupted.cluster)


@in_world(nodes="a", warmimage="app")
async def test_a_server_that_is_away_for_a_while_ends_no_wait(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    await world.sync()
    interrupted = Interrupted(world)
    waiting = asyncio.create_task(wait(interrupted.cluster))
    await asyncio.sleep(5)
    interrupted.answer = Unreachable("refused")
    world.server.end_watches()
    await asyncio.sleep(30)
    interrupted.answer = None
    await report(world, "a", {"app": "warm"})
    await world.sync()
    assert await waiting == 0
    out = capsys.readouterr().out
    assert "refused; trying again" in out
    assert out.endswith(f"{IMAGE} is warm: 1 of 1 nodes\n")


@in_world(nodes="a", warmimage="app")
async def test_a_terminal_has_one_line_that_is_rewritten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    await world.sync()
    with terminal(monkeypatch) as shown_there:
        waiting = asyncio.create_task(wait(cluster_of(world)))
        await asyncio.sleep(5)
        await report(world, "a", {"app": "warm"})
        await world.sync()
        assert await waiting == 0
    (seen,) = shown_there
    assert seen.count("\n") == 1
    assert all(len(line) <= 59 for line in seen.strip().split("\r"))
    assert f"{IMAGE} is warm: 1 of 1 nodes" in seen


def test_credentials_that_ended_are_asked_for_again_within_the_time_of_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[int | Exception] = [SignedOut(), SignedOut(), 0]

    def connect(*_: object) -> int:
        end = ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr("cli.status.command.with_cluster", connect)
    assert main(["status", "--wait", IMAGE]) == 0
    assert ends == []


@pytest.mark.parametrize("target", [(), ("node/a",), ("warmimage/a",), ("a b",), ("shop/app:v1",), ("app",)])
def test_a_wait_for_anything_but_the_whole_name_of_an_image_is_a_wrong_call(
    target: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--wait", *target]) == 2
    assert capsys.readouterr().err.count("\n") == 1
