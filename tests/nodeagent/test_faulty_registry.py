"""With real containerd and registries that misbehave: each fault has its reason, and no other line waits for it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.cri import open_runtime
from devcluster.registry.images import Image, build_index, incompressible_image, write_image
from devcluster.registry.serve import Registry, serve_registry
from tests.real.containerd import FAULTY_PORT, REGISTRY_PORT, Containerd, start_runtime
from tests.real.programs import real_time
from tests.support.agents import Bench, bench
from tests.support.faulty_registry import Fault, FaultyRegistry, serve_faults
from tests.support.instant import until
from warmhook.node_lines import Line
from warmhook.ports import Runtime
from warmhook.warmimages import ObjectKey, Pull

pytestmark = pytest.mark.containerd

SECONDS = 40
DENIED = json.dumps({"errors": [{"code": "DENIED", "message": "hunter2 may not pull"}]})
LIMITED = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "retry after 3600 seconds"}]})


@dataclass(frozen=True, slots=True)
class Place:
    """A registry with faults, a sound one with the same content, a containerd and its agent."""

    faulty: FaultyRegistry
    sound: Registry
    containerd: Containerd
    runtime: Runtime
    bench: Bench

    def push(self, name: str, image: Image | None = None) -> str:
        """Put an image into both registries; returns its digest."""
        return write_image(self.sound.root, f"shop/{name}", "1", image or incompressible_image(0.1, name))

    def line(self, host: str, name: str, digest: str = "", *, timeout_seconds: int = 600, retries: int = 0) -> Line:
        """A line for an image of one of the registries."""
        pull = Pull(timeout_seconds=timeout_seconds, backoff_limit=retries)
        return Line(ObjectKey(name, name), f"{host}/shop/{name}:1", digest, pull=pull)

    async def push_sound(self, name: str) -> None:
        """Push an image to the sound registry, and return when it is warm."""
        line = self.line(self.sound.host, name, self.push(name))
        await self.bench.want(line)
        await until(lambda: self.bench.state(line) == "warm", seconds=SECONDS)


@contextlib.asynccontextmanager
async def _place() -> AsyncIterator[Place]:
    with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
        async with (
            serve_registry(Path(folder), port=REGISTRY_PORT) as registry,
            serve_faults(registry.host, port=FAULTY_PORT) as faulty,
            start_runtime() as containerd,
            open_runtime(containerd.endpoint) as runtime,
            bench(allow_local_registries=True) as b,
            b.agent(runtime=runtime, check_seconds=1),
        ):
            yield Place(faulty, registry, containerd, runtime, b)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(Fault(401), "Unauthorized", id="401"),
        pytest.param(Fault(401, {"www-authenticate": 'Basic realm="x"'}), "Unauthorized", id="401 with a challenge"),
        pytest.param(Fault(403, body=DENIED), "Unauthorized", id="403"),
        pytest.param(Fault(404), "NotFound", id="404"),
        pytest.param(Fault(429, {"retry-after": "3600"}, LIMITED), "RateLimited", id="429"),
        pytest.param(Fault(500), "Network", id="500"),
        pytest.param(Fault(503), "Network", id="503"),
        pytest.param(Fault(reset=True), "Network", id="reset"),
        pytest.param(Fault(layers="reset"), "Network", id="reset within a layer"),
        pytest.param(Fault(layers="cut"), "Network", id="truncated"),
        pytest.param(Fault(layers="corrupt"), "RuntimeError", id="corrupt"),
    ],
)
@real_time
async def test_a_fault_has_its_reason_delays_no_other_line_and_is_over_when_it_is(fault: Fault, reason: str) -> None:
    async with _place() as place:
        b, digest = place.bench, place.push("web")
        place.faulty.faults["shop/web"] = fault
        line = place.line(place.faulty.host, "web", digest)
        await b.want(line)
        await until(lambda: b.state(line) == "failed", seconds=SECONDS)
        assert b.reason(line) == reason
        assert "hunter2" not in b.detail(line)
        await place.push_sound("bystander")
        assert b.state(line) == "failed"
        assert await place.runtime.image(line.image) is None
        del place.faulty.faults["shop/web"]
        # A new version of the line, as a push makes one, is tried at once, but not at a registry that limits requests.
        again = place.line(place.faulty.host, "web", digest, timeout_seconds=599)
        await b.want(again)
        expected = "waiting" if reason == "RateLimited" else "warm"
        await until(lambda: b.state(again) == expected, seconds=SECONDS)


@real_time
async def test_layers_that_stall_delay_no_other_line_meanwhile_and_time_out() -> None:
    async with _place() as place:
        b, stalled = place.bench, []
        for name in ("one", "two"):
            place.faulty.faults[f"shop/{name}"] = Fault(layers="stall")
            stalled.append(place.line(place.faulty.host, name, place.push(name), timeout_seconds=20))
        await b.want(*stalled)
        await until(lambda: set(place.faulty.requests) >= {"shop/one", "shop/two"}, seconds=SECONDS)
        await place.push_sound("bystander")
        # A report names a state that has lasted for 5 seconds.
        await until(lambda: [b.state(line) for line in stalled] == ["pulling"] * 2, seconds=SECONDS)
        await until(lambda: [b.reason(line) for line in stalled] == ["Timeout"] * 2, seconds=SECONDS)


@real_time
async def test_a_registry_that_limits_requests_is_not_asked_again_and_its_other_images_wait() -> None:
    async with _place() as place:
        b = place.bench
        place.faulty.faults["shop/web"] = Fault(429, {"retry-after": "3600"}, LIMITED)
        line, other = (place.line(place.faulty.host, name, place.push(name)) for name in ("web", "other"))
        await b.want(line)
        await until(lambda: b.reason(line) == "RateLimited", seconds=SECONDS)
        asked = len(place.faulty.requests)
        await b.want(other)
        await place.push_sound("bystander")
        await until(lambda: b.reason(other) == "RateLimited", seconds=SECONDS)
        assert b.state(other) == "waiting"
        assert f"{place.faulty.host} limits requests; this node asks again at" in b.detail(other)
        assert len(place.faulty.requests) == asked


@real_time
async def test_a_containerd_restarted_within_a_pull_is_asked_again() -> None:
    async with _place() as place:
        b, digest = place.bench, place.push("web")
        place.faulty.faults["shop/web"] = Fault(layers="stall")
        line = place.line(place.faulty.host, "web", digest, retries=3)
        await b.want(line)
        await until(lambda: "shop/web" in place.faulty.requests, seconds=SECONDS)
        await place.containerd.kill()
        place.faulty.faults.clear()
        await place.containerd.start()
        await until(lambda: b.state(line) == "warm", seconds=SECONDS)
        await place.push_sound("bystander")


@real_time
async def test_a_tag_that_moves_within_a_pull_is_warm_with_the_digest_that_it_brought() -> None:
    async with _place() as place:
        b, first = place.bench, place.push("web", incompressible_image(0.1, "first"))
        second = place.push("web", incompressible_image(0.1, "second"))
        line = place.line(place.faulty.host, "web", first)
        await b.want(line)
        await until(lambda: b.state(line) == "warm", seconds=SECONDS)
        assert json.loads(b.detail(line)) == {"moved": second}


@real_time
async def test_an_index_without_the_platform_of_the_node_is_platform_missing_and_delays_no_other_line() -> None:
    async with _place() as place:
        b = place.bench
        index = build_index([incompressible_image(0.1, "arm", platform="linux/arm64")])
        line = place.line(place.faulty.host, "web", place.push("web", index))
        await b.want(line)
        await until(lambda: b.state(line) == "failed", seconds=SECONDS)
        assert b.reason(line) == "PlatformMissing"
        await place.push_sound("bystander")
