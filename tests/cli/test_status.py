"""`warmhook status` shows how far images have come: all of a namespace, one, or those of a node."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Refused
from cli.errors import Failed, Unusable
from cli.lookup import look_up
from cli.output import OutputFormat
from cli.status.command import show
from cli.target import read_target
from tests.cli.commands import cluster_of, report, shown
from tests.handlers.world import DIGEST, HOST, World, in_world, status
from warmhook.warmimages import ObjectKey


async def printed(
    world: World, target: str | None = None, output: OutputFormat = "table", namespace: str = "shop"
) -> None:
    """As the command does it once it has a cluster."""
    await show(cluster_of(world, namespace), read_target(target) if target else None, output)


async def settle(world: World) -> None:
    """Lines are on the nodes, and the nodes have reported."""
    await world.sync()
    await report(world, "a", {"web": "warm", "api": "warm"})
    await report(world, "b", {"web": "failed", "api": "pulling"}, reason="NotFound", message="no \x1b[31msuch tag")
    await world.sync()


async def two_images(world: World) -> None:
    await world.add_warmimage("web", f"{HOST}/shop/web:v1", digest=DIGEST)
    await world.add_warmimage("api", f"{HOST}/shop/api:v2")
    await settle(world)


@in_world(nodes="ab")
async def test_the_table_has_each_image_with_its_state_and_below_what_fails(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_images(world)
    await asyncio.sleep(180)
    await printed(world)
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[:3]] == [
        ["IMAGE", "WARM", "STATE", "AGE"],
        [f"{HOST}/shop/api:v2", "1/2", "pulling", "3m1s"],
        [f"{HOST}/shop/web:v1", "1/2", "failing", "3m1s"],
    ]
    assert out[-1].split() == [f"{HOST}/shop/web:v1", "NotFound", "b", "no", "[31msuch", "tag"]


@in_world(nodes="ab")
async def test_wide_adds_columns_and_all_namespaces_add_theirs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_images(world)
    await printed(world, output="wide", namespace="")
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:6] == ["NAMESPACE", "IMAGE", "WARM", "STATE", "AGE", "NAME"]
    assert head.split()[6:] == ["POLICY", "PULLING", "WAITING", "FAILED", "UNREACHABLE", "PUSHED", "DIGEST"]
    assert first.split()[:3] == ["shop", f"{HOST}/shop/api:v2", "1/2"]


@in_world()
async def test_an_empty_namespace_is_said_and_no_table_is_printed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await printed(world)
    assert capsys.readouterr() == ("", "no WarmImages in namespace shop; -A looks into all\n")
    await printed(world, output="json")
    assert shown(capsys) == {"warmImages": []}


@in_world(nodes="ab")
async def test_one_image_is_told_with_counts_reasons_and_nodes(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_images(world)
    await printed(world, "web:v1", "wide")
    out = capsys.readouterr().out
    assert "WarmImage:  shop/web\n" in out
    assert "State:      failing: 1 of 2 nodes warm\n" in out
    assert "Nodes:      2: 1 warm, 0 pulling, 0 waiting, 1 failed, 0 unreachable\n" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["NotFound", "b", "no", "[31msuch", "tag"] in rows
    assert rows[-2:] == [["b", "failed", "NotFound"], ["a", "warm"]]
    await printed(world, "web", "json")
    assert shown(capsys)["warmImages"][0]["failures"] == [
        {"reason": "NotFound", "message": "no [31msuch tag", "count": 1, "nodes": ["b"]}
    ]


@in_world(nodes="ab")
async def test_the_way_that_an_image_came_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    await two_images(world)
    found = {
        "digest": DIGEST,
        "nodes": 9,
        "seeds": 1,
        "fallbacks": 2,
        "bytesFromPeers": 2**30,
        "bytesFromRegistry": 2**20,
        "slowestTransferSeconds": 12,
        "slowestUnpackSeconds": 3,
    }
    path = paths.warmimages(ObjectKey("shop", "web"))
    await world.admin.patch(paths.status(path), {"status": {"distribution": found}})
    await printed(world, "warmimage/web")
    out = capsys.readouterr().out
    assert "Distribution:  9 nodes by a plan: 1 read the registry, 2 fell back to it; 1.0 GiB from nodes, " in out
    assert "1.0 MiB from it; the slowest took 12s, and 3s to unpack\n" in out
    await printed(world, "web", "json")
    assert shown(capsys)["warmImages"][0]["distribution"] == found


@in_world(nodes="ab")
async def test_a_node_is_told_with_its_lines_and_its_last_sign_of_life(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_images(world)
    await asyncio.sleep(60)
    await printed(world, "node/b")
    node, agent, images, _, _, *rows = capsys.readouterr().out.splitlines()
    assert (node, agent) == ("Node:    b", "Agent:   reported 61s ago")
    assert images == "Images:  2: 0 warm, 1 pulling, 0 waiting, 1 failed"
    assert rows[0].split()[:4] == ["shop", f"{HOST}/shop/web@{DIGEST}", "failed", "NotFound"]
    await asyncio.sleep(600)
    await printed(world, "b")
    assert "Agent:   unreachable: reported 11m ago; the states below may be old" in capsys.readouterr().out
    await printed(world, "b", "json")
    found = shown(capsys)
    assert (found["node"], found["reachable"], found["noRoom"]) == ("b", False, [])
    assert {line["name"]: line["state"] for line in found["lines"]} == {"web": "failed", "api": "pulling"}


@in_world(nodes="a")
async def test_a_node_whose_agent_never_came_is_told_as_such(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    await printed(world, "a")
    assert "Agent:   has never reported" in capsys.readouterr().out


@in_world(nodes="ab")
async def test_a_name_alone_is_that_of_a_warmimage_then_of_an_image_then_of_a_node(world: World) -> None:
    cluster = cluster_of(world)

    async def means(text: str) -> str:
        found = await look_up(cluster, read_target(text))
        return found.node.name if found.node else ",".join(each.key.name for each in found.images)

    assert await means("a") == "a"
    await world.add_warmimage("first", f"{HOST}/shop/a:v1")
    assert await means("a") == "first"
    await world.add_warmimage("a", f"{HOST}/shop/other:v1")
    assert await means("a") == "a"
    assert [await means(f"{kind}/a") for kind in ("warmimage", "image", "node")] == ["a", "first", "a"]
    assert (await look_up(cluster, read_target("node/a"))).node is not None


@pytest.mark.parametrize(
    ("target", "namespace", "words"),
    [
        ("nothing", "shop", "no WarmImage, image or node 'nothing' in namespace shop; -A looks into all"),
        ("nothing", "", "no WarmImage, image or node 'nothing' in any namespace"),
        ("a/b:1", "shop", "no image 'a/b:1' in namespace shop"),
        ("node/x", "shop", "no node 'x' in context 'test' of /config"),
        ("node/..", "shop", "no node '..' in context 'test' of /config"),
        ("..", "", "no WarmImage, image or node '..' in any namespace"),
        ("warmimage/x", "shop", "no WarmImage 'x' in namespace shop"),
        ("Not.A.Name", "shop", "no WarmImage, image or node 'Not.A.Name'"),
    ],
)
@in_world(nodes="a")
async def test_a_name_that_nothing_has_is_said_with_where_it_was_looked_for(
    world: World, target: str, namespace: str, words: str
) -> None:
    with pytest.raises(Failed) as caught:
        await look_up(cluster_of(world, namespace), read_target(target))
    assert caught.value.message.startswith(words)


@in_world(nodes="a")
async def test_whoever_may_see_images_only_is_told_that_the_name_may_be_that_of_a_node(world: World) -> None:
    world.answer(status(403, "Forbidden"), "GET", "/configmaps/")
    limited = replace(cluster_of(world), kubernetes=Kubernetes(world.transport))
    with pytest.raises(Failed, match=r"no WarmImage, image or node 'a' in namespace shop.*; you may not read nodes"):
        await look_up(limited, read_target("a"))
    with pytest.raises(Refused):
        await look_up(limited, read_target("node/a"))


@in_world()
async def test_a_text_that_can_be_no_name_is_a_wrong_call(world: World) -> None:
    with pytest.raises(Unusable, match="name an image, warmimage/NAME or node/NAME"):
        await look_up(cluster_of(world), read_target("a/b@c"))
