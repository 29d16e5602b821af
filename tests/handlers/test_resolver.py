"""What a registry says decides about lines, and a registry that says nothing delays nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.oci_registry import OciRegistries
from devcluster.registry.images import build_artifact, build_image, build_index
from handlers.event_sink import open_in_process
from handlers.reconcile.context import Context
from handlers.reconcile.recorder import Recorder
from handlers.reconcile.resolver import Resolver
from handlers.reconcile.writer import Writer
from tests.handlers.test_push_cost import Local, other_writes, reads
from tests.handlers.world import HOST, NAMESPACE, SOURCES, World, digest, run_in_world
from tests.support.registry import InProcessRegistry
from warmhook.images import parse_reference
from warmhook.node_lines import desired_name, line_key
from warmhook.node_report import LineReport
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey, WarmImage

A, B = (build_image(name.encode() * 100) for name in "ab")
ARM = build_image(b"arm" * 100, platform="linux/arm64")
NAME = "shop/app"
IMAGE = f"{HOST}/{NAME}:v1"
MANIFEST = f"/v2/{NAME}/manifests/v1"

Case: TypeAlias = Callable[[World, InProcessRegistry], Coroutine[Any, Any, None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """Run a case in a world with a registry that `web` may ask; `web` watches."""

    def run(case: Case, *, asked: bool = True, **given: Any) -> None:
        async def in_world(world: World) -> None:
            registry = InProcessRegistry(HOST, tmp_path)
            if asked:
                world.registries = registry.client(world.clock)
                world.restart()
            async with world.watching():
                await world.clock.sleep(5)
                world.requests.clear()
                await case(world, registry)

        run_in_world(in_world, nodes="a", policy=True, **given)

    return run


async def answered_before(world: World, registry: InProcessRegistry) -> None:
    """Let the last answer of the registry be good."""
    registry.put("shop/first", "v1", A)
    await world.push(repository="shop/first", content=A.digest)
    await world.clock.sleep(5)
    world.requests.clear()
    registry.requests.clear()


def a_resolver(world: World) -> Resolver:
    """Another one, which stores nothing."""
    kubernetes = Kubernetes(world.transport)
    writer = Writer(kubernetes, NAMESPACE, world.clock)
    recorder = Recorder(writer, world.clock)
    return Resolver(Context(world.cluster, writer, world.clock, recorder, registries=world.registries), _do_nothing)


class ByHost(httpx.AsyncBaseTransport):
    """Two registries, by their hosts."""

    def __init__(self, registry: InProcessRegistry, slow: InProcessRegistry) -> None:
        self._registry, self._slow = registry, slow

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        one = self._slow if request.url.host == "slow.example.com" else self._registry
        return await one.handle_async_request(request)


def warmimage(name: str, image: str) -> WarmImage:
    return WarmImage(ObjectKey("shop", name), parse_reference(image), uid=name)


async def _do_nothing(_key: ObjectKey) -> None:
    return None


async def line(world: World, node: str = "a", image: str = IMAGE) -> Object | None:
    """The line of an image on a node."""
    data = ((await world.desired(node)) or {}).get("data") or {}
    return next((found for text in data.values() if (found := json.loads(text))["i"] == image), None)


async def status(world: World, image: str = IMAGE) -> Object:
    found: Object = (await world.warmimages())[image].get("status") or {}
    return found


def ready(status: Object) -> tuple[str, str]:
    return next((one["status"], one["reason"]) for one in status["conditions"] if one["type"] == "Ready")


def test_a_push_gets_the_digest_and_the_size_of_the_registry(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        await world.push(content=digest("e"))
        await world.clock.sleep(2)
        found = await line(world)
        assert found is not None
        assert (found["d"], found["s"]) == (A.digest, len(A.blobs[1]))
        resolved = (await status(world))["resolved"]
        assert resolved["platforms"] == ["linux/amd64"]
        assert resolved["image"] == f"{IMAGE}@{digest('e')}"
        assert resolved["runnable"]
        assert (await status(world))["digest"] == A.digest

    run(case)


def test_pushes_a_b_a_end_on_a_although_their_events_end_on_b(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        for image, ago in ((A, 30.0), (A, 10.0), (B, 5.0)):
            registry.put(NAME, "v1", A)
            await world.push(content=image.digest, ago=ago)
            await world.clock.sleep(1)
        await world.clock.sleep(10)
        assert (await world.warmimages())[IMAGE]["spec"]["digest"] == B.digest
        found = await line(world)
        assert found is not None
        assert found["d"] == A.digest

    run(case)


def test_a_tag_that_is_pushed_again_and_again_follows_the_registry(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        for image in (A, B, A):
            registry.put(NAME, "v1", image)
            await world.push(content=image.digest)
            await world.clock.sleep(10)
            found = await line(world)
            assert found is not None
            assert found["d"] == image.digest

    run(case)


@pytest.mark.parametrize("fault", ["down", "hangs", "401", "403", "429", "500", "no such tag"])
def test_a_registry_that_says_nothing_delays_nothing(run: Callable[..., None], fault: str) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.down = fault == "down"
        registry.answers_after = 3600.0 if fault == "hangs" else 0.0
        registry.status = int(fault) if fault.isdigit() else 0
        await world.push(content=digest("e"))
        await world.clock.sleep(0.3)
        found = await line(world)
        assert found is not None
        assert (found["d"], "s" in found) == (digest("e"), False)

    run(case)


def test_a_registry_that_begins_to_hang_delays_one_push_by_half_a_second(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await answered_before(world, registry)
        registry.answers_after = 3600.0
        await world.push(content=digest("e"))
        await world.clock.sleep(0.4)
        assert await line(world) is None
        await world.clock.sleep(0.3)
        assert await line(world) is not None
        await world.clock.sleep(10)
        await world.push("v2", content=digest("f"))
        await world.clock.sleep(0.3)
        assert await line(world, image=f"{HOST}/{NAME}:v2") is not None

    run(case)


def test_a_registry_that_returns_completes_the_lines_at_the_next_sync(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.down = True
        await world.push(content=digest("e"))
        await world.clock.sleep(20)
        assert (await status(world))["resolved"]["problem"] == "Network"
        registry.down = False
        registry.put(NAME, "v1", A)
        await world.clock.sleep(600)
        found = await line(world)
        assert found is not None
        assert found["d"] == A.digest
        assert "problem" not in (await status(world))["resolved"]

    run(case)


def test_an_answer_that_comes_late_completes_the_lines(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await answered_before(world, registry)
        registry.put(NAME, "v1", A)
        registry.answers_after = 1.0
        await world.push(content=digest("e"))
        await world.clock.sleep(0.9)
        found = await line(world)
        assert found is not None
        assert found["d"] == digest("e")
        await world.clock.sleep(5)
        found = await line(world)
        assert found is not None
        assert found["d"] == A.digest

    run(case)


def test_an_image_that_vanishes_from_the_registry_keeps_its_line(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        await world.push(content=A.digest)
        await world.clock.sleep(5)
        before = await line(world)
        registry.drop_tag(NAME, "v1")
        assert before is not None
        await world.clock.sleep(1000)
        assert await line(world) == before

    run(case)


def test_a_chart_gets_no_line_and_its_status_says_why(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", build_artifact("helm"))
        await world.push(content=digest("e"))
        await world.clock.sleep(5)
        assert await line(world) is None
        assert ready(await status(world)) == ("False", "NotRunnable")
        assert (await status(world))["desired"] == 0

    run(case)


def test_a_chart_whose_registry_answers_before_the_line_is_written_says_so_soon(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await answered_before(world, registry)
        registry.put(NAME, "v1", build_artifact("helm"))
        registry.answers_after = 0.2
        await world.push(content=digest("e"))
        await world.clock.sleep(5)
        assert await line(world) is None
        assert ready(await status(world)) == ("False", "NotRunnable")
        assert not [path for method, path in world.requests if method == "PATCH" and "warmhook-desired" in path]

    run(case)


async def add_arm(world: World, *names: str) -> None:
    await world.add_nodes(*names, **{"kubernetes.io/arch": "arm64"})


def test_nodes_without_the_platform_get_no_line_and_count_as_failed(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await add_arm(world, "m")
        await world.add_nodes("x", **{"kubernetes.io/arch": "amd64"})
        for node in "amx":
            await world.report(node)
        registry.put(NAME, "v1", A)
        await world.push(content=A.digest)
        await world.clock.sleep(5)
        assert [await line(world, node) is not None for node in "amx"] == [True, False, True]
        found = await status(world)
        assert (found["desired"], found["failed"]) == (3, 1)
        assert found["failures"] == [
            {"node": "m", "reason": "PlatformMissing", "message": "the image is for linux/amd64 only"}
        ]

    run(case)


def test_an_index_reaches_every_platform_that_it_has(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await add_arm(world, "m")
        registry.put(NAME, "v1", build_index([A, ARM], attestation=True))
        await world.push(content=digest("e"))
        await world.clock.sleep(5)
        assert await line(world, "m") is not None

    run(case)


def test_a_platform_that_is_added_to_a_tag_brings_the_line_to_its_nodes(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await add_arm(world, "m")
        await world.report("m")
        registry.put(NAME, "v1", A)
        await world.push(content=A.digest)
        await world.clock.sleep(5)
        assert await line(world, "m") is None
        both = build_index([A, ARM])
        registry.put(NAME, "v1", both)
        await world.push(content=both.digest)
        await world.clock.sleep(5)
        assert await line(world, "m") is not None

    run(case)


def test_a_limit_takes_nodes_without_the_platform_last(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await add_arm(world, *(f"m{number}" for number in range(8)))
        registry.put(NAME, "v1", A)
        await world.add_warmimage("limited", IMAGE, nodes={"limit": 1})
        await world.clock.sleep(5)
        assert await line(world, "a") is not None

    run(case)


@pytest.mark.parametrize("given", [{"digest": B.digest}, {"image": f"{IMAGE}@{B.digest}"}], ids=["field", "reference"])
def test_a_digest_that_a_person_wrote_is_not_replaced(run: Callable[..., None], given: dict[str, Any]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        registry.put(NAME, "", B)
        await world.add_warmimage("mine", **{"image": IMAGE} | given)
        await world.clock.sleep(5)
        found = await line(world, image=f"{HOST}/{NAME}@{B.digest}")
        assert found is not None
        assert (found["d"], found["s"]) == (B.digest, len(B.blobs[1]))
        assert f"GET {MANIFEST}" not in registry.requests

    run(case)


def test_a_tag_that_nodes_found_moved_is_resolved_again(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        await world.add_warmimage("mine", IMAGE)
        await world.clock.sleep(60)
        registry.put(NAME, "v1", B)
        obj = (await world.desired("a")) or {}
        key = line_key(ObjectKey("shop", "mine"))
        version = obj["metadata"]["labels"][f"line.warmhook.dev/{key}"]
        await world.report("a", {key: LineReport(version, "warm", moved=B.digest)})
        await world.clock.sleep(60)
        found = await line(world)
        assert found is not None
        assert found["d"] == B.digest

    run(case)


def test_replicas_of_a_registry_that_differ_move_a_line_once_in_five_minutes(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        await world.add_warmimage("mine", IMAGE)
        await world.clock.sleep(60)
        digests = list[str]()
        for image in (B, A) * 10:
            registry.put(NAME, "v1", image)
            obj = (await world.desired("a")) or {}
            key = line_key(ObjectKey("shop", "mine"))
            version = obj["metadata"]["labels"][f"line.warmhook.dev/{key}"]
            await world.report("a", {key: LineReport(version, "warm", moved=image.digest)})
            await world.clock.sleep(12)
            digests.append(((await line(world)) or {})["d"])
        assert sum(before != after for before, after in pairwise(digests)) <= 1

    run(case)


def test_a_slow_registry_with_very_many_images_keeps_no_other_from_being_asked(
    run: Callable[..., None], tmp_path: Path
) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        (tmp_path / "slow").mkdir()
        slow = InProcessRegistry("slow.example.com", tmp_path / "slow")
        slow.answers_after = 9.0
        settings = {**registry.client(world.clock).settings, **slow.client(world.clock).settings}
        world.registries = OciRegistries(settings, world.clock, transport=ByHost(registry, slow))
        resolver = a_resolver(world)
        many = [warmimage(f"w{number}", f"slow.example.com/shop/app:v{number}") for number in range(1200)]
        resolver.begin(many)
        registry.put(NAME, "v1", A)
        resolver.begin([warmimage("mine", IMAGE)])
        await world.clock.sleep(1)
        assert f"GET {MANIFEST}" in registry.requests
        await resolver.close()

    run(case)


def test_an_image_at_which_its_registry_fails_keeps_no_other_from_being_asked(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        registry.broken = "shop/broken"
        resolver = a_resolver(world)
        resolver.begin([warmimage(f"w{number}", f"{HOST}/shop/broken:v{number}") for number in range(8)])
        await world.clock.sleep(1)
        resolver.begin([warmimage("mine", IMAGE)])
        await world.clock.sleep(1)
        assert f"GET {MANIFEST}" in registry.requests
        await resolver.close()

    run(case)


def test_an_image_is_resolved_once(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        await world.push(content=A.digest)
        await world.clock.sleep(3600)
        assert registry.requests.count(f"GET {MANIFEST}") == 1
        await world.add_nodes("b")
        await world.clock.sleep(60)
        found = await line(world, "b")
        assert found is not None
        assert found["d"] == A.digest
        assert registry.requests.count(f"GET {MANIFEST}") == 1

    run(case)


def test_registries_that_are_not_configured_are_never_asked(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        evil = "169.254.169.254/latest/meta-data:v1"
        await world.add_warmimage("evil", evil)
        await world.clock.sleep(1000)
        assert registry.requests == []
        assert "resolved" not in await status(world, evil)

    run(case)


def test_without_a_configuration_no_registry_is_asked(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await world.push()
        await world.clock.sleep(1000)
        assert registry.requests == []
        assert "resolved" not in await status(world)

    run(case, asked=False)


def test_two_handlers_that_know_different_answers_end_with_the_stored_one(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        await world.push(content=digest("e"))
        other = world.new_client(world.new_app())
        name = (await world.warmimages())[IMAGE]["metadata"]["name"]
        resolved = {"resolved": {"image": f"{IMAGE}@{digest('e')}", "digest": B.digest, "runnable": True}}

        async def store() -> None:
            path = paths.warmimages(ObjectKey("shop", name))
            spec = (await world.admin.get(path))["spec"]
            resolved["resolved"] |= {"pushedAt": spec["pushedAt"], "checkedAt": "2026-03-01T13:00:00Z"}
            await world.admin.patch(paths.status(path), {"status": resolved})

        world.once(store, "PATCH", paths.configmaps(NAMESPACE, desired_name("a")))
        await world.changed("WarmImage", name, client=other)
        await world.clock.sleep(10)
        found = await line(world)
        assert found is not None
        assert found["d"] == B.digest

    run(case)


def test_a_refresh_costs_one_head_request_if_the_tag_has_not_moved(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        await world.push(content=A.digest)
        await world.clock.sleep(60)
        (warmimage,) = (await world.cluster.warmimages()).usable.values()
        resolver = a_resolver(world)
        registry.requests.clear()
        before = (await status(world))["resolved"]
        after = await resolver.resolve_again(warmimage)
        assert after is not None
        assert registry.requests == [f"HEAD {MANIFEST}"]
        assert {**after["resolved"], "checkedAt": ""} == {**before, "problem": None, "checkedAt": ""}
        assert after["resolved"]["checkedAt"] > before["checkedAt"]

    run(case)


@pytest.mark.parametrize(("fault", "answers"), [("moved", True), ("gone", True), ("down", False), ("401", False)])
def test_a_refresh_is_left_to_the_nodes_if_the_registry_does_not_answer(
    run: Callable[..., None], fault: str, answers: bool
) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put(NAME, "v1", A)
        await world.push(content=A.digest)
        await world.clock.sleep(60)
        (warmimage,) = (await world.cluster.warmimages()).usable.values()
        registry.put(NAME, "v1", B)
        registry.down = fault == "down"
        registry.status = 401 if fault == "401" else 0
        if fault == "gone":
            registry.drop_tag(NAME, "v1")
        after = await a_resolver(world).resolve_again(warmimage)
        assert (after is not None) == answers
        if after is not None:
            assert after["resolved"]["digest"] == (B if fault == "moved" else A).digest

    run(case)


def test_a_namespace_that_may_not_have_an_image_learns_nothing_about_it(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.put("secret/app", "v1", A)
        await world.add_warmimage("spy", f"{HOST}/secret/app:v1")
        await world.clock.sleep(1000)
        assert registry.requests == []

    limits = f'namespaces: [{{names: ["*"], images: ["{HOST}/shop/**"]}}]\n'
    run(case, sources=SOURCES + limits)


@pytest.mark.parametrize("asked", [False, True], ids=["not configured", "configured"])
def test_a_push_costs_one_write_more_if_its_registry_is_asked(tmp_path: Path, asked: bool) -> None:
    async def case(world: World) -> None:
        registry = InProcessRegistry(HOST, tmp_path)
        world.registries = registry.client(world.clock) if asked else None
        local = Local(world)
        await world.add_nodes("a", "b", "c")
        await world.add_policy()
        registry.put("shop/other", "v1", B)
        await world.add_warmimage("other", f"{HOST}/shop/other:v1")
        for node in "abc":
            await world.report(node)
        async with open_in_process(local.post) as post, world.watching(post):
            await world.clock.sleep(60)
            registry.put(NAME, "v1", A)
            world.requests.clear()
            await local.push(content=A.digest)
            await world.clock.sleep(0.25)
            expected = [("POST", "warmimages")] + [("PATCH", "warmimages/status")] * asked
            assert other_writes(world) == expected
            assert reads(world) == 6, world.requests
            assert len([path for _, path in world.requests if "warmhook-desired" in path]) == 3

    run_in_world(case)


def test_a_web_that_ends_asks_nothing_any_more(run: Callable[..., None]) -> None:
    def asking() -> int:
        return sum(task.get_name() == "resolve shop/mine" for task in asyncio.all_tasks())

    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.answers_after = 5.0
        await world.add_warmimage("mine", IMAGE)
        await world.clock.sleep(1)
        assert asking() == 1
        app = world.new_app()
        async with app.router.lifespan_context(app):
            assert (await world.changed("WarmImage", "mine", client=world.new_client(app))).status_code == 204
            assert asking() == 2
        assert asking() == 1

    run(case)
