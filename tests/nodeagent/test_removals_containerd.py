"""An agent of a real containerd removes what nothing uses, and never what a container or another name keeps.

The agent's clock runs 60 times as fast as the machine's, so that its looks are a second apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from adapters.containerd import open_containerd
from adapters.cri import open_runtime
from adapters.kubernetes.paths import configmaps
from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import Registry, serve_registry
from tests.real.containers import Containers, start_containerd_with_containers
from tests.real.programs import eventually, real_time
from tests.support.agents import NAMESPACE, Bench, bench
from tests.support.instant import until
from warmhook.node_lines import Line, desired_name
from warmhook.pins import PIN, PINNED
from warmhook.ports import Runtime
from warmhook.warmimages import ObjectKey

pytestmark = pytest.mark.containerd

SPEED = 60
LOOKS_SECONDS = (30 + 60 + 600) / SPEED
"""Longer than all looks that an image needs, also one that is put off."""


@dataclass(frozen=True, slots=True)
class Place:
    """A registry, a containerd with containers and the bench of an agent of it."""

    registry: Registry
    containers: Containers
    runtime: Runtime
    bench: Bench

    def push(self, name: str, content: str = "") -> str:
        """Push an image; returns its reference."""
        repository, _, tag = name.partition(":")
        write_image(self.registry.root, f"shop/{repository}", tag, incompressible_image(0.1, content or repository))
        return f"{self.registry.host}/shop/{name}"

    async def has(self, image: str) -> bool:
        return await self.runtime.image(image) is not None

    async def gone(self, image: str) -> None:
        async def absent() -> bool:
            return not await self.has(image)

        await eventually(absent, what=f"{image} is gone", seconds=LOOKS_SECONDS)

    async def warm(self, *images: str) -> list[Line]:
        """Lines with `onRemoval: Delete` for the images, all warm."""
        lines = [
            Line(ObjectKey("shop", image.rpartition("/")[2].replace(":", "-")), image, on_removal="Delete")
            for image in images
        ]
        await self.bench.want(*lines)
        await until(lambda: all(self.bench.state(line) == "warm" for line in lines), seconds=60)
        return lines

    def kept(self) -> dict[str, str]:
        """Why images stay, by image."""
        return {event["image"]: event["reason"] for event in self.bench.events("image-kept")}


@contextlib.asynccontextmanager
async def _place() -> AsyncIterator[Place]:
    with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
        async with (
            serve_registry(Path(folder), port=0) as registry,
            start_containerd_with_containers(registry) as containers,
            open_runtime(containers.containerd.endpoint) as runtime,
            bench(allow_local_registries=True) as b,
        ):
            b.speed = SPEED
            yield Place(registry, containers, runtime, b)


@real_time
async def test_containers_in_any_state_and_the_images_of_sandboxes_are_listed() -> None:
    async with _place() as place:
        assert await place.runtime.used_images() == set()
        image = place.push("web:1")
        image_id = await place.runtime.pull(image, timeout_seconds=30)
        container = await place.containers.start(image)
        assert await place.runtime.used_images() == {image, image_id, place.containers.pause}
        await place.containers.stop(container)
        assert await place.containers.states() == ["CONTAINER_EXITED"]
        assert await place.runtime.used_images() == {image, image_id, place.containers.pause}
        await place.containers.remove_all()
        assert await place.runtime.used_images() == set()


@real_time
async def test_delete_removes_what_nothing_uses_and_keeps_all_else() -> None:
    async with _place() as place:
        b, runtime = place.bench, place.runtime
        names = ("before:1", "running:1", "stopped:1", "named:1", "free:1", "moved:1", "wanted:1")
        before, running, stopped, named, free, moved, wanted = map(place.push, names)
        await runtime.pull(before, timeout_seconds=30)
        async with b.agent(runtime=runtime):
            lines = await place.warm(before, running, stopped, named, free, moved, wanted)
            await place.containers.start(running)
            await place.containers.stop(await place.containers.start(stopped))
            second = place.push("named:second", "named")
            await runtime.pull(second, timeout_seconds=30)
            old = await runtime.image(moved)
            place.push("moved:1", "moved to another image")
            pushed = replace(lines[5], pushed_at="2026-05-01T00:00:00Z")
            await b.want(pushed, without=tuple(lines[:5]))
            assert old
            for image in (free, old.id, old.digests[0]):
                await place.gone(image)
            await until(lambda: len(place.kept()) == 4, seconds=LOOKS_SECONDS)
            assert place.kept() == {before: "NotPulledHere", running: "InUse", stopped: "InUse", named: "OtherName"}
            await asyncio.sleep(LOOKS_SECONDS)
            for image in (before, running, stopped, named, second, moved, wanted, place.containers.pause):
                assert await place.has(image), image
            assert {event["reason"] for event in b.events("removal")} == {"NotWanted", "TagMoved"}
            assert len(b.events("removal")) == 2
            await place.containers.remove_all()
            await place.gone(running)
            await place.gone(stopped)


@real_time
async def test_a_configmap_that_vanishes_removes_nothing_from_containerd_also_after_a_restart() -> None:
    async with _place() as place:
        b, image, other = place.bench, place.push("web:1"), place.push("other:1")
        async with b.agent(runtime=place.runtime):
            line, _ = await place.warm(image, other)
            await b.want(without=(line,))
            await until(lambda: len(b.events("lines-changed")) >= 2)
            await b.kubernetes.delete(configmaps(NAMESPACE, desired_name(b.node)))
            await asyncio.sleep(LOOKS_SECONDS)
        async with b.agent(runtime=place.runtime):
            await asyncio.sleep(LOOKS_SECONDS)
            assert await place.has(image)
            assert await place.has(other)
            assert {event["reason"] for event in b.events("removals-held")} == {"configmap-missing"}


@real_time
async def test_an_image_that_somebody_pinned_stays_until_the_pin_is_gone() -> None:
    async with _place() as place:
        b, image = place.bench, place.push("web:1")
        async with open_containerd(place.containers.containerd.endpoint) as containerd, b.agent(runtime=place.runtime):
            (line,) = await place.warm(image)
            await containerd.set_labels(image, {PIN: PINNED[PIN]})
            await asyncio.sleep(1)
            listed = await place.runtime.image(image)
            if listed is None or not listed.pinned:
                pytest.skip("this containerd does not list a label as a pin")
            await b.want(without=(line,))
            await asyncio.sleep(LOOKS_SECONDS)
            assert await place.has(image)
            assert place.kept() == {image: "Pinned"}
            await containerd.set_labels(image, {PIN: ""})
            await place.gone(image)


@real_time
async def test_a_pause_image_that_the_agent_pulled_stays_while_a_sandbox_uses_it() -> None:
    async with _place() as place:
        b, pause, web = place.bench, place.containers.pause, place.push("web:1")
        async with b.agent(runtime=place.runtime):
            (line,) = await place.warm(pause)
            await place.runtime.pull(web, timeout_seconds=30)
            await place.containers.start(web)
            await b.want(without=(line,))
            await asyncio.sleep(LOOKS_SECONDS)
            assert await place.has(pause)
