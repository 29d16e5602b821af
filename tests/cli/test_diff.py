"""`warmhook diff` compares what nodes should hold with what they report."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Callable
from typing import cast

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes, Listing
from cli.cluster import Cluster
from cli.diff.command import compare
from cli.output import OutputFormat
from cli.target import read_target
from tests.cli.commands import cluster_of, report, shown
from tests.handlers.world import HOST, NAMESPACE, START, World, in_world
from tests.support.images import image_object
from tests.support.instant import instantly, loop_clock
from warmhook.api import DROPPED_ANNOTATION, LINE_LABEL, SEEN_ANNOTATION, WARM_ANNOTATION
from warmhook.node_lines import desired_name, line_key
from warmhook.node_report import report_name
from warmhook.ports import Object
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey


async def diff(world: World, target: str | None = None, output: OutputFormat = "table", namespace: str = "shop") -> int:
    return await compare(cluster_of(world, namespace), read_target(target) if target else None, output)


async def two_images(world: World) -> None:
    await world.add_warmimage("web", f"{HOST}/shop/web:v1")
    await world.add_warmimage("api", f"{HOST}/shop/api:v2")
    await world.sync()


@in_world(nodes="ab")
async def test_nodes_that_hold_what_they_should_are_no_difference(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_images(world)
    for node in "ab":
        await report(world, node, {"web": "warm", "api": "warm"})
    await world.sync()
    assert await diff(world) == 0
    assert capsys.readouterr().out == "2 nodes hold what they should: 4 lines\n"
    assert await diff(world, "a") == 0
    assert capsys.readouterr().out == "a holds what it should: 2 lines\n"
    assert await diff(world, output="json") == 0
    assert shown(capsys) == {"nodes": 2, "lines": 4, "differences": [], "silent": []}


@in_world(nodes="abcde")
async def test_differences_are_grouped_by_kind_and_image_the_worst_first(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_images(world)
    await report(world, "a", {"web": "warm", "api": "failed"}, reason="NotFound")
    for node in "bcd":
        await report(world, node, {"web": "warm", "api": "pulling"})
    await report(world, "e", {"web": "warm"})
    await world.sync()
    assert await diff(world, namespace="") == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    api = f"{HOST}/shop/api:v2"
    assert rows == [
        ["DIFFERENCE", "NAMESPACE", "IMAGE", "NODES", "WHICH"],
        ["failed", "shop", api, "1", "a"],
        ["pulling", "shop", api, "3", "b,", "c,", "d"],
        ["unseen", "shop", api, "1", "e"],
    ]
    assert await diff(world, "web") == 0
    assert await diff(world, "api") == 1


@in_world(nodes="abcde")
async def test_a_silent_node_is_named_and_its_old_report_does_not_count(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_images(world)
    await report(world, "a", {"web": "warm", "api": "warm"})
    await asyncio.sleep(900)
    await report(world, "b", {"web": "warm", "api": "warm"})
    await world.sync()
    assert await diff(world) == 1
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()][1:] == [
        ["silent", "-", "4", "a,", "c,", "d", "and", "1", "more"],
    ]
    assert err == ""
    await diff(world, output="wide")
    assert capsys.readouterr().out.rstrip().endswith("a, c, d, e")
    await diff(world, output="json")
    silent = shown(capsys)["silent"]
    assert [each["node"] for each in silent] == ["a", "c", "d", "e"]
    assert ["seenAt" in each for each in silent] == [True, False, False, False]
    assert await diff(world, "a") == 1
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["silent", "-", "-", "unreachable:", "reported"]


@in_world(nodes="ab")
async def test_if_every_agent_seems_silent_the_clock_of_this_machine_is_suspected(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_images(world)
    assert await diff(world) == 1
    assert capsys.readouterr().err == "every agent seems silent: is the clock of this machine right?\n"


@in_world(nodes="a")
async def test_lines_without_room_are_a_difference(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    await two_images(world)
    await report(world, "a", {"web": "warm", "api": "warm"})
    web, gone = (line_key(ObjectKey("shop", name)) for name in ("late", "gone"))
    await world.add_warmimage("late", f"{HOST}/shop/late:v1")
    refused = {"metadata": {"annotations": {DROPPED_ANNOTATION: f"{web},{gone}"}}}
    await world.admin.patch(paths.configmaps(NAMESPACE, desired_name("a")), refused)
    assert await diff(world) == 1
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [["noRoom", f"{HOST}/shop/late:v1"], ["uncounted", f"{HOST}/shop/late:v1"]]
    assert await diff(world, namespace="") == 1
    assert f"line {gone}" in capsys.readouterr().out
    assert await diff(world, "a") == 1
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()][1:] == [
        ["noRoom", "-", "line"],
        ["noRoom", "shop", "late"],
    ]


@in_world(nodes="a")
async def test_what_is_purged_and_still_there_is_a_difference_and_what_is_gone_is_none(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    purged = {"metadata": {"annotations": {"warmhook.dev/purge": "true"}}}
    await world.add_warmimage("web", f"{HOST}/shop/web:v1")
    await world.admin.patch(paths.warmimages(ObjectKey("shop", "web")), purged)
    await world.sync()
    await world.sync()
    line = (await world.desired("a") or {})["data"]
    assert '"x":true' in next(iter(line.values()))
    await report(world, "a", {"web": "warm"})
    assert await diff(world) == 1
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "kept"
    await report(world, "a", {"web": "waiting"})
    assert await diff(world) == 0


@in_world(nodes="a")
async def test_lines_of_other_namespaces_do_not_count(world: World) -> None:
    await two_images(world)
    await world.add_namespace("team")
    assert await diff(world, namespace="team") == 0


# --- thousands of nodes -----------------------------------------------------------------------------------------------

NODES, IMAGES = 5000, 200
MEBIBYTE = 1024  # in the unit of `ru_maxrss`


class Fleet:
    """The API server of a large cluster in which every report is older than every line."""

    def __init__(self) -> None:
        self.images = [image_object(f"web{number}:v1", warm=NODES) for number in range(IMAGES)]
        keys = [line_key(ObjectKey("shop", each["metadata"]["name"])) for each in self.images]
        self.labels = {f"{LINE_LABEL}{key}": f"{number:08x}" for number, key in enumerate(keys)}
        self.seen = format_time(START)

    async def list(self, path: str, *, keep: Callable[[Object], Object], labels: str = "", **_: object) -> Listing:
        """As the client's."""
        if path.endswith("/warmimages"):
            return Listing(list(map(keep, self.images)), "1")
        return Listing([keep({"metadata": self.metadata(number, labels)}) for number in range(NODES)], "1")

    def metadata(self, number: int, labels: str) -> Object:
        """Of one ConfigMap, as if it had just been read."""
        if labels.endswith("=desired"):
            return {"name": desired_name(f"node-{number}"), "labels": json.loads(json.dumps(self.labels))}
        warm = ",".join(f"{number:04x}{image:04x}" for image in range(IMAGES))
        return {
            "name": report_name(f"node-{number}"),
            "annotations": {SEEN_ANNOTATION: self.seen, WARM_ANNOTATION: warm},
        }


@pytest.mark.slow
def test_thousands_of_nodes_are_compared_in_seconds_and_little_memory(capsys: pytest.CaptureFixture[str]) -> None:
    async def case() -> int:
        kubernetes = cast("Kubernetes", Fleet())
        clock = loop_clock(START, 1)
        cluster = Cluster(kubernetes, None, None, clock, "", "", "", NAMESPACE)  # type: ignore[arg-type]
        return await compare(cluster, None, "json")

    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert instantly(case()) == 1
    took, more = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found = shown(capsys)
    assert (found["nodes"], found["lines"], len(found["differences"])) == (NODES, NODES * IMAGES, IMAGES)
    assert {each["difference"] for each in found["differences"]} == {"unseen"}
    assert took < 30
    assert more < 250 * MEBIBYTE
