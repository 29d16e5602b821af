"""An agent of a real containerd calls warm what a Pod would find there, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.containerd import open_containerd
from adapters.cri import open_runtime
from adapters.kubernetes.warmimage import read_warmimage
from devcluster.registry.app import Access, registry_app
from devcluster.registry.folder import Answer, Folder
from devcluster.registry.images import build_artifact, build_image, build_index, incompressible_image, write_image
from devcluster.registry.serve import Registry, serve_app, serve_registry
from nodeagent.disk import disk_space
from nodeagent.settings import Settings
from tests.real.containerd import REGISTRY_PORT, Containerd, start_runtime
from tests.real.programs import eventually, real_time, small_disk
from tests.support.agents import Bench, bench
from tests.support.instant import until
from warmhook.disk_space import Space
from warmhook.images import parse_reference
from warmhook.node_lines import Line, line_of
from warmhook.pins import our_pins
from warmhook.ports import Runtime
from warmhook.warmimages import ObjectKey, Pull

pytestmark = pytest.mark.containerd


@dataclass(frozen=True, slots=True)
class Place:
    """A registry, a containerd and an agent of it."""

    registry: Registry
    containerd: Containerd
    runtime: Runtime
    bench: Bench

    def line(self, image: str, digest: str = "") -> Line:
        """A line for an image; one failure is enough to fail."""
        name = image.rpartition("/")[2].replace(":", "-").partition("@")[0]
        return Line(ObjectKey("shop", name), image, digest, pull=Pull(backoff_limit=0))


@contextlib.asynccontextmanager
async def _place(parent: Path = Path("/tmp")) -> AsyncIterator[Place]:
    with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
        async with (
            serve_registry(Path(folder), port=REGISTRY_PORT) as registry,
            start_runtime(parent=parent) as containerd,
            open_runtime(containerd.endpoint) as runtime,
            bench(allow_local_registries=True) as b,
        ):
            yield Place(registry, containerd, runtime, b)


@real_time
async def test_an_image_that_cannot_run_is_failed_whatever_containerd_answers_also_after_a_restart() -> None:
    async with _place() as place:
        b, root, host = place.bench, place.registry.root, place.registry.host
        made = {
            "helm": (build_artifact("helm"), "NotRunnable"),
            "signature": (build_artifact("signature"), "NotRunnable"),
            "arm64": (incompressible_image(0.1, "arm", platform="linux/arm64"), "PlatformMissing"),
        }
        lines = []
        for name, (image, reason) in made.items():
            write_image(root, f"shop/{name}", "1", image)
            lines.append((reason, place.line(f"{host}/shop/{name}:1")))
        await b.want(*(line for _, line in lines))
        for _ in range(2):
            async with b.agent(runtime=place.runtime, check_seconds=1):
                for reason, line in lines:
                    await until(lambda line=line: b.state(line) == "failed", seconds=30)  # type: ignore[misc]
                    assert b.reason(line) == reason
                assert not b.report().warm


@real_time
async def test_an_image_with_an_endless_configuration_is_failed_and_holds_up_no_other() -> None:
    async with _place() as place:
        b, root, host = place.bench, place.registry.root, place.registry.host
        lines = []
        for mebibytes in (0, 2, 20):
            image = build_image(b"content", note="x" * (mebibytes << 20) or "small")
            write_image(root, "shop/web", f"{mebibytes}", image)
            lines.append(place.line(f"{host}/shop/web:{mebibytes}"))
        await b.want(*lines)
        async with b.agent(runtime=place.runtime, check_seconds=1):
            await until(lambda: [b.state(line) for line in lines] == ["warm", "failed", "failed"], seconds=60)
            assert all(b.reason(line) == "NotRunnable" for line in lines[1:])


@real_time
async def test_an_image_is_there_under_the_name_that_its_author_wrote() -> None:
    async with _place() as place:
        names = ["registry-1.docker.io/library", "registry.hub.docker.com/library", "Reg.Example.com/shop"]
        lines = []
        for name in names:
            host, _, repository = name.partition("/")
            write_image(place.registry.root, f"{repository}/web", "1", incompressible_image(0.1, "web"))
            folder = place.containerd.certs / host
            folder.mkdir()
            (folder / "hosts.toml").write_text(
                f'server = "http://{place.registry.host}"\n[host."http://{place.registry.host}"]\n'
            )
            line = place.line(str(parse_reference(f"{name}/web:1")))
            lines.append(Line(ObjectKey("shop", host.lower()), line.image))
        await place.bench.want(*lines)
        async with place.bench.agent(runtime=place.runtime, check_seconds=1):
            await until(lambda: all(place.bench.state(line) == "warm" for line in lines), seconds=30)
        for name in names:
            assert await place.runtime.image(f"{name}/web:1"), name


@real_time
async def test_a_pinned_digest_is_there_as_a_pod_would_name_it_where_its_tag_has_moved() -> None:
    async with _place() as place:
        root, host = place.registry.root, place.registry.host
        pinned = write_image(root, "shop/web", "1", incompressible_image(0.1, "first"))
        write_image(root, "shop/web", "1", incompressible_image(0.1, "second"))
        reference = f"{host}/shop/web:1@{pinned}"
        obj = {"metadata": {"namespace": "shop", "name": "web"}, "spec": {"image": reference}}
        line = line_of(read_warmimage(obj))
        await place.bench.want(line)
        async with place.bench.agent(runtime=place.runtime, check_seconds=1):
            await until(lambda: place.bench.state(line) == "warm", seconds=30)
        found = await place.runtime.image(reference)
        assert found
        assert found.digests == (f"{host}/shop/web@{pinned}",)


@real_time
async def test_pull_heal_move_and_a_killed_runtime() -> None:
    async with _place() as place:
        b, runtime, registry = place.bench, place.runtime, place.registry
        root, containerd = registry.root, place.containerd
        async with b.agent(runtime=runtime, check_seconds=1):
            index = build_index([incompressible_image(1, "one", platform="linux/amd64")])
            image = f"{registry.host}/shop/web:1"
            line = Line(ObjectKey("shop", "web"), image, write_image(root, "shop/web", "1", index))
            await b.want(line)
            await until(lambda: b.state(line) == "warm", seconds=30)
            listed = await runtime.image(image)
            assert listed
            assert listed.digests == (f"{registry.host}/shop/web@{line.digest}",)

            await runtime.remove(image)
            await until(lambda: len(b.events("pull")) == 2 and b.state(line) == "warm", seconds=30)

            digest = write_image(root, "shop/web", "2", incompressible_image(1, "two"))
            moved = Line(ObjectKey("shop", "two"), f"{registry.host}/shop/web:2", line.digest)
            await b.want(moved)
            await until(lambda: b.state(moved) == "warm", seconds=30)
            assert json.loads(b.detail(moved)) == {"moved": digest}

            await containerd.kill()
            await until(lambda: b.state(line) == "waiting", seconds=30)
            await containerd.start()
            await until(lambda: b.state(line) == b.state(moved) == "warm", seconds=60)
            assert len(b.events("pull")) == 3


@real_time
async def test_a_refresh_costs_a_manifest_and_finds_a_moved_tag_and_suspending_stops_a_pull() -> None:
    asked: list[Access] = []
    with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
        async with (
            serve_registry(Path(folder), port=0, log=asked.append) as registry,
            start_runtime(parent=Path("/tmp")) as containerd,
            open_runtime(containerd.endpoint) as runtime,
            bench(allow_local_registries=True) as b,
        ):
            place = Place(registry, containerd, runtime, b)
            first = write_image(registry.root, "shop/web", "1", incompressible_image(0.1, "first"))
            line = place.line(f"{registry.host}/shop/web:1", first)
            await b.want(line)
            async with b.agent(runtime=runtime, check_seconds=1):
                await until(lambda: b.state(line) == "warm", seconds=30)
                asked.clear()
                refreshed = replace(line, refreshed_at="2026-05-01T00:00:00Z")
                await b.want(refreshed)
                await until(lambda: len(b.events("pull")) == 2 and b.state(refreshed) == "warm", seconds=30)
                assert asked
                assert [access for access in asked if "/blobs/" in access.path] == []

                second = write_image(registry.root, "shop/web", "1", incompressible_image(0.1, "second"))
                again = replace(line, refreshed_at="2026-05-02T00:00:00Z")
                await b.want(again)
                await until(lambda: b.detail(again) == json.dumps({"moved": second}, separators=(",", ":")), seconds=30)
                assert b.state(again) == "warm"

                write_image(registry.root, "shop/stalls", "1", incompressible_image(8, "stalls"))
                Folder(registry.root).write_answer("shop/stalls", Answer(stall=True))
                stalled = place.line(f"{registry.host}/shop/stalls:1")
                await b.want(stalled)
                await until(lambda: b.state(stalled) == "pulling" and any(registry.answering.values()), seconds=30)
                await b.want(replace(stalled, suspended=True))
                await until(lambda: not any(registry.answering.values()), seconds=30)
                await until(lambda: b.state(replace(stalled, suspended=True)) == "waiting", seconds=30)


@real_time
async def test_a_pinned_image_is_listed_as_pinned_after_each_pull_or_its_runtime_is_named() -> None:
    """containerd 1.6 does not honour the label, 1.7 and later do."""
    async with _place() as place, open_containerd(place.containerd.endpoint) as own:
        b, root, host = place.bench, place.registry.root, place.registry.host
        write_image(root, "shop/web", "1", incompressible_image(0.1, "first"))
        line = replace(place.line(f"{host}/shop/web:1"), pull=Pull(pinned=True))
        await b.want(line)
        honoured = float((await place.runtime.version()).split()[1][:3]) >= 1.7

        async def is_pinned() -> bool:
            found = await place.runtime.image(line.image)
            return bool(found and found.pinned)

        async def our_labels() -> list[str]:
            return our_pins(await own.images())

        async with b.agent(runtime=place.runtime, containerd=own, check_seconds=1):
            await until(lambda: b.state(line) == "warm", seconds=30)
            if not honoured:
                await until(lambda: bool(b.events("pins-not-honoured")), seconds=30)
                assert await our_labels() == []
                return
            await eventually(is_pinned, what="the image is pinned")
            await place.runtime.pull(line.image, timeout_seconds=30)
            await eventually(is_pinned, what="the image is pinned again")
            await place.containerd.restart()
            await eventually(is_pinned, what="the image is still pinned")
            await b.want(without=(line,))

            async def is_unpinned() -> bool:
                return not await is_pinned() and not await our_labels()

            await eventually(is_unpinned, what="the pin is gone")
            assert await place.runtime.image(line.image)


@real_time
async def test_a_slow_pull_is_not_stopped_at_its_limit_and_one_that_stalls_is() -> None:
    async with _place() as place, open_containerd(place.containerd.endpoint) as own:
        b, registry, limit = place.bench, place.registry, 3
        write_image(registry.root, "shop/slow", "1", incompressible_image(8, "slow"))
        write_image(registry.root, "shop/stalls", "1", incompressible_image(8, "stalls"))
        Folder(registry.root).write_answer("shop/stalls", Answer(stall=True))
        app = registry_app(registry.root, log=lambda _: None, answering=Counter())
        async with serve_app(_slowly(app), name="slow registry") as slow_host:
            pull = Pull(timeout_seconds=limit, backoff_limit=0)
            slow = replace(place.line(f"{slow_host}/shop/slow:1"), pull=pull)
            stalled = replace(place.line(f"{registry.host}/shop/stalls:1"), pull=pull)
            await b.want(slow, stalled)
            async with b.agent(runtime=place.runtime, containerd=own, check_seconds=1):
                await until(lambda: b.state(stalled) == "failed", seconds=30)
                assert b.state(slow) == "pulling"
                assert json.loads(b.detail(stalled))["message"].startswith(f"no progress for {limit} s, after")
                await until(lambda: b.state(slow) == "warm", seconds=30)
            (event,) = [event for event in b.events("pull") if event["result"] == "pulled"]
            assert event["seconds"] > 2 * limit


def _slowly(app: ASGIApp) -> ASGIApp:
    """Sends about 1 MiB of each answer per second."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_slowly(message: Message) -> None:
            await send(message)
            await asyncio.sleep(len(message.get("body", b"")) / 2**20)

        await app(scope, receive, send_slowly)

    return slow


@real_time
async def test_a_disk_of_300_mb_is_never_filled_below_its_free_share_and_space_that_returns_is_used() -> None:
    async with small_disk(megabytes=300) as disk, _place(disk) as place:
        b, root, host, node = place.bench, place.registry.root, place.registry.host, place.containerd.root
        sizes = {"small": 10, "large": 30, "huge": 100}
        lines = {}
        for name, mebibytes in sizes.items():
            write_image(root, f"shop/{name}", "1", incompressible_image(mebibytes, name))
            lines[name] = replace(place.line(f"{host}/shop/{name}:1"), size_bytes=mebibytes << 20)
        least = 100.0

        def space() -> Space:
            found = disk_space([str(node)], "/nowhere")
            assert found
            return found

        def free() -> float:
            nonlocal least
            least = min(least, percent := space().free_percent)
            return percent

        b.disk_bytes, b.free_percent = space().total_bytes, free
        (filler := disk / "filler").write_bytes(bytes(140 * 10**6))
        await b.want(*lines.values())
        async with b.agent(runtime=place.runtime, check_seconds=1):
            await until(lambda: free() > 0 and b.state(lines["small"]) == "warm", seconds=60)
            for name in ("large", "huge"):
                await until(lambda name=name: b.state(lines[name]) == "failed", seconds=30)  # type: ignore[misc]
                assert b.reason(lines[name]) == "DiskFull"
            assert "needs about 350.0 MiB" in b.detail(lines["huge"])
            filler.unlink()
            await until(lambda: free() > 0 and b.state(lines["large"]) == "warm", seconds=60)
            assert b.state(lines["huge"]) == "failed"
            assert least >= Settings("node-1").min_free_percent
            assert len(b.events("pull")) == 2
