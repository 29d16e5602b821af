"""What a push costs the API server is bounded, and what the watch has seen saves reads without deciding anything."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Literal

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.rate_limit import ByteRateLimiter
from adapters.kubernetes.warmimage import read_warmimage
from devcluster.apiserver import InProcessTransport
from handlers.event_sink import open_in_process
from handlers.reconcile.context import Context
from handlers.reconcile.dispatch import Dispatch
from handlers.reconcile.pushes import Pushes
from handlers.reconcile.reader import PolicyCache, Reader
from handlers.reconcile.recorder import Recorder
from handlers.reconcile.writer import Writer
from tests.handlers.world import DIGEST, HOST, NAMESPACE, POLICIES, World, digest, in_world, status
from warmhook.events import Changed, Event, Pushed, changed_event
from warmhook.images import parse_reference
from warmhook.node_lines import desired_name, line_key, line_of, read_line
from warmhook.node_report import LineReport
from warmhook.ports import Object, Response
from warmhook.warmimages import ObjectKey

CONFIGMAPS = paths.configmaps(NAMESPACE)


class Local:
    """One process that accepts pushes and handles the events of its own watch."""

    def __init__(self, world: World) -> None:
        self.world = world
        kubernetes = Kubernetes(world.transport)
        writer = Writer(kubernetes, NAMESPACE, world.clock)
        reader = Reader(kubernetes, NAMESPACE, world.clock, PolicyCache(), world.configuration.tenancy)
        context = Context(
            reader, writer, world.clock, Recorder(writer, world.clock), timedelta(minutes=5), world.registries
        )
        self.pushes = Pushes(context)
        budget = ByteRateLimiter(0, monotonic=world.monotonic, sleep=world.clock.sleep)
        self.dispatch = Dispatch(context, world.configuration.sources, self.pushes, budget, lambda _seconds: None)
        self.seen: Callable[[Object], Object] = lambda obj: obj
        """What the watch makes of an object that it saw."""

    async def post(self, event: Event) -> None:
        """Handle what the watch sends, with the WarmImages as it saw them."""
        present = {obj["metadata"]["name"]: obj for obj in (await self.world.warmimages()).values()}
        for named in event.data.get("objects", ()):
            if named["kind"] == "WarmImage" and named["name"] in present:
                named["object"] = self.seen(present[named["name"]])
        await self.dispatch.handle([event], local=True)

    async def handle(self, change: Changed) -> None:
        """Handle one change."""
        await self.dispatch.handle([changed_event([change], self.world.now())], local=True)

    async def push(self, tag: str = "v1", content: str = DIGEST) -> None:
        now = self.world.now()
        pushed = Pushed(parse_reference(f"{HOST}/shop/app:{tag}@{content}"), now)
        assert await self.pushes.accept(pushed, f"push of {tag} {content}", now) == "accepted"


@asynccontextmanager
async def quiet(world: World, **policy: Any) -> AsyncIterator[Local]:
    """Three nodes with ConfigMaps and reports, one policy, a watch, and nothing left to do."""
    local = Local(world)
    await world.add_nodes("a", "b", "c")
    await world.add_policy(**policy)
    await world.add_warmimage("other", f"{HOST}/shop/other:v1")
    for node in "abc":
        await world.report(node)
    async with open_in_process(local.post) as post, world.watching(post):
        await world.clock.sleep(60)
        assert set(await world.lines()) == {"a", "b", "c"}
        world.requests.clear()
        yield local


def reads(world: World) -> int:
    return sum(method == "GET" for method, _ in world.requests)


def other_writes(world: World) -> list[tuple[str, str]]:
    """Method and what is written, without the ConfigMaps of nodes."""
    written = [(method, path) for method, path in world.requests if method != "GET" and not path.startswith(CONFIGMAPS)]
    return [(method, "/".join(path.partition("/namespaces/shop/")[2].split("/")[::2])) for method, path in written]


def seen(kind: Literal["WarmPolicy", "WarmImage"], obj: Object) -> Changed:
    """The change of an object, as the watch names it."""
    metadata = obj["metadata"]
    return Changed(kind, "shop", metadata["name"], resource_version=metadata["resourceVersion"], object=obj)


async def key_of(world: World, tag: str) -> ObjectKey:
    return ObjectKey("shop", (await world.warmimages())[f"{HOST}/shop/app:{tag}"]["metadata"]["name"])


async def images_of(world: World, node: str) -> list[str]:
    return [image.rpartition("/")[2] for image in (await world.lines())[node]]


@in_world()
async def test_a_push_costs_six_reads_until_its_lines_are_written_and_proved(world: World) -> None:
    async with quiet(world) as local:
        await local.push()
        await world.clock.sleep(0.2)
        assert await images_of(world, "c") == ["app:v1", "other:v1"]
        assert reads(world) == 6, world.requests


@in_world()
async def test_nodes_that_serve_images_cost_a_push_one_read_and_the_next_pushes_none(world: World) -> None:
    async with quiet(world) as local:
        await world.serve(*"abc")
        await world.clock.sleep(400)
        for tag, count in (("v1", 7), ("v2", 6)):
            world.requests.clear()
            await local.push(tag)
            await world.clock.sleep(0.2)
            assert f"app:{tag}" in await images_of(world, "c")
            assert reads(world) == count, world.requests
            await world.clock.sleep(5)


@in_world()
async def test_a_push_costs_six_more_reads_and_four_writes_until_its_nodes_are_warm(world: World) -> None:
    async with quiet(world) as local:
        await local.push()
        await world.clock.sleep(0.2)
        line = line_of(read_warmimage(await world.admin.get(paths.warmimages(await key_of(world, "v1")))))
        for node in "abc":
            await world.report(node, {line.key: LineReport(line.version, "warm")})
        await world.clock.sleep(60)
        assert (await world.admin.get(paths.warmimages(line.warmimage)))["status"]["warm"] == 3
        assert other_writes(world) == [
            ("POST", "warmimages"),
            ("PATCH", "warmimages/status"),
            ("POST", "events"),
            ("PATCH", "warmpolicies/status"),
        ]
        assert reads(world) <= 12, world.requests


@in_world()
async def test_reports_that_follow_do_not_count_the_warmimages_again(world: World) -> None:
    async with quiet(world) as local:
        await local.push()
        await world.clock.sleep(30)
        world.requests.clear()
        line = line_of(read_warmimage(await world.admin.get(paths.warmimages(await key_of(world, "v1")))))
        await world.report("a", {line.key: LineReport(line.version, "pulling")})
        await world.clock.sleep(30)
        assert ("GET", paths.warmpolicies()) not in world.requests
        assert reads(world) == 4, world.requests


@in_world()
async def test_a_push_that_moves_a_tag_changes_every_line(world: World) -> None:
    async with quiet(world) as local:
        for content in "ab":
            await local.push(content=digest(content))
            await world.clock.sleep(30)
            key = line_key(await key_of(world, "v1"))
            for node in "abc":
                data = (await world.admin.get(paths.configmaps(NAMESPACE, desired_name(node))))["data"]
                assert read_line(key, data[key]).digest == digest(content)


@in_world()
async def test_a_push_that_keep_makes_room_for_replaces_the_line_in_one_write_of_each_node(world: World) -> None:
    async with quiet(world) as local:
        await local.push("v1", digest("a"))
        await world.clock.sleep(30)
        world.requests.clear()
        await local.push("v2", digest("b"))
        await world.clock.sleep(0.1)
        assert await images_of(world, "a") == ["app:v2", "other:v1"]
        assert [method for method, path in world.requests if path.startswith(CONFIGMAPS + "/")] == ["PATCH"] * 3


def as_of_another_repository(obj: Object) -> Object:
    labels = dict.fromkeys(obj["metadata"]["labels"], "0" * 16)
    return obj | {"metadata": obj["metadata"] | {"labels": labels}}


@pytest.mark.parametrize(
    "forge",
    [
        as_of_another_repository,
        lambda obj: obj | {"metadata": {"name": obj["metadata"]["name"]}},
        lambda obj: obj | {"spec": {**obj["spec"], "image": "evil.example.com/a:b", "digest": digest("e")}},
    ],
)
@in_world()
async def test_an_object_that_is_not_as_the_watch_says_leads_to_what_is_there(
    world: World, forge: Callable[[Object], Object]
) -> None:
    async with quiet(world) as local:
        local.seen = forge
        await local.push()
        await world.clock.sleep(30)
        assert await images_of(world, "a") == ["app:v1", "other:v1"]


@in_world(nodes="a", policy=True)
async def test_an_object_in_an_event_that_was_posted_leads_to_no_write(world: World) -> None:
    await world.push()
    key = await key_of(world, "v1")
    forged = await world.admin.get(paths.warmimages(key))
    forged["spec"] |= {"image": "evil.example.com/a:b", "digest": digest("e")}
    await world.changed("WarmImage", key.name, resourceVersion="9", object=forged)
    await world.changed("WarmImage", "never-there", resourceVersion="9", object=forged)
    assert await images_of(world, "a") == ["app:v1"]
    assert list(await world.warmimages()) == [f"{HOST}/shop/app:v1"]


async def pushed(world: World) -> tuple[Local, ObjectKey, Object]:
    """A process that has accepted a push, and the WarmImage."""
    local = Local(world)
    await local.push()
    key = await key_of(world, "v1")
    return local, key, await world.admin.get(paths.warmimages(key))


@in_world(nodes="a", policy=True)
async def test_a_warmimage_that_is_deleted_before_its_event_is_handled_leaves_no_line(world: World) -> None:
    local, key, obj = await pushed(world)
    await world.admin.delete(paths.warmimages(key))
    await local.handle(seen("WarmImage", obj))
    assert world.writes()[1:] == []


@in_world(nodes="a", policy=True)
async def test_a_push_that_was_accepted_by_an_older_policy_ends_as_the_policy_says_now(world: World) -> None:
    local, key, obj = await pushed(world)
    # The policy changes after the list that the push was accepted by, and its event comes last.
    policy = await world.admin.patch(f"{POLICIES}/shop", {"spec": {"template": {"pull": {"priority": 7}}}})
    await local.handle(seen("WarmImage", obj))
    await local.handle(seen("WarmPolicy", policy))
    assert (await world.admin.get(paths.warmimages(key)))["spec"]["pull"]["priority"] == 7


@in_world(nodes="a", policy=True)
async def test_a_push_is_judged_by_policies_that_are_no_older_than_the_watch_has_seen(world: World) -> None:
    local = Local(world)
    lagging = await world.admin.list(paths.warmpolicies())
    policy = await world.admin.patch(f"{POLICIES}/shop", {"spec": {"template": {"pull": {"priority": 7}}}})
    await local.handle(seen("WarmPolicy", policy))
    # The push is accepted by a list that lags behind.
    body = {"metadata": {"resourceVersion": lagging.resource_version}, "items": lagging.items}
    world.answer(Response(200, {}, json.dumps(body).encode()), "GET", paths.warmpolicies(), times=1)
    await local.push()
    obj = await world.admin.get(paths.warmimages(key := await key_of(world, "v1")))
    assert obj["spec"].get("pull", {}).get("priority", 0) == 0
    await local.handle(seen("WarmImage", obj))
    assert (await world.admin.get(paths.warmimages(key)))["spec"]["pull"]["priority"] == 7


class Lagging(InProcessTransport):
    """An API server whose cache of one kind stands still: it answers all lists that may be as old."""

    def __init__(self, given: InProcessTransport, path: str) -> None:
        super().__init__(given.server, user_agent=given._user_agent, before=given.before)
        self._path, self._version, self._cached = path, 0, Response(200, {}, b"")

    async def stand_still(self, **given: Any) -> None:
        self._cached = await super().request("GET", self._path, **given)
        self._version = int(json.loads(self._cached.body)["metadata"]["resourceVersion"])

    async def request(self, method: str, path: str, **given: Any) -> Response:
        version = (given.get("query") or {}).get("resourceVersion", "")
        if version and self._version >= int(version) and (method, path) == ("GET", self._path):
            return self._cached
        return await super().request(method, path, **given)


@pytest.mark.parametrize("led_before", [False, True], ids=["before it watched", "while another process led"])
@in_world()
async def test_a_push_reaches_a_node_that_joined_unseen_though_the_api_server_lags(
    world: World, led_before: bool
) -> None:
    world.transport = lagging = Lagging(world.transport, paths.NODES)
    local = Local(world)
    await world.add_policy()
    await world.add_nodes("a")
    if led_before:
        async with world.watching(local.post):
            await world.clock.sleep(60)
            await world.admin.patch(paths.node("a"), {"metadata": {"labels": {"pool": "web"}}})
            await world.clock.sleep(10)
    await lagging.stand_still()
    await world.add_nodes("b")
    async with world.watching(local.post):
        await world.clock.sleep(60)
        await local.push()
        await world.clock.sleep(30)
        assert (await world.lines()).keys() == {"a", "b"}


class WithoutProgress(InProcessTransport):
    """An API server whose cache of a kind is as new as the newest object of it: its etcd reports no progress."""

    async def request(self, method: str, path: str, **given: Any) -> Response:
        query = given.get("query") or {}
        if version := int(query.get("resourceVersion") or 0):
            present = await super().request(method, path, query={}, headers=given["headers"])
            items = json.loads(present.body)["items"]
            if version > max((int(obj["metadata"]["resourceVersion"]) for obj in items), default=0):
                return status(504, "Too large resource version")
        return await super().request(method, path, **given)


@in_world()
async def test_a_push_reaches_its_nodes_though_the_caches_of_the_api_server_learn_only_from_changes(
    world: World,
) -> None:
    world.transport = WithoutProgress(world.server, user_agent="web", before=world.transport.before)
    async with quiet(world) as local:
        await local.push()
        await world.clock.sleep(5)
        assert await images_of(world, "c") == ["app:v1", "other:v1"]


@in_world()
async def test_warmimages_are_counted_by_the_repeat_of_an_event_whose_count_got_no_answer(world: World) -> None:
    async with quiet(world) as local:
        await local.push()
        hanging = True

        async def hang(method: str, path: str) -> None:
            # With nothing else to do, only a count lists the policies.
            if hanging and (method, path) == ("GET", paths.warmpolicies()):
                await world.clock.sleep(3600)

        await world.clock.sleep(0.25)
        world.faults.append(hang)
        await world.clock.sleep(40)
        hanging = False
        await world.clock.sleep(60)
        assert (await world.admin.get(f"{POLICIES}/shop"))["status"]["images"] == 1


@in_world(nodes="a", policy=True)
async def test_a_warmimage_whose_label_names_another_repository_is_judged_with_its_own(world: World) -> None:
    local = Local(world)
    await local.push("v1", digest("a"))
    await world.clock.sleep(2)
    await local.push("v2", digest("b"))
    await world.admin.patch(f"{POLICIES}/shop", {"spec": {"template": {"pull": {"priority": 7}}}})
    label = {"warmhook.dev/repository": "0" * 16}
    obj = await world.admin.patch(paths.warmimages(await key_of(world, "v2")), {"metadata": {"labels": label}})
    await local.handle(seen("WarmImage", obj))
    assert (await world.warmimages())[f"{HOST}/shop/app:v1"]["spec"]["pull"]["priority"] == 7
