"""A registry that this node cannot reach costs one transfer its time-outs, not each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from nodeagent.peers.registry_pauses import PAUSE_SECONDS, RegistryPauses
from tests.support.agents import EPOCH
from tests.support.instant import instant, loop_clock
from warmhook.images import Reference, parse_reference
from warmhook.ports import Credentials, Part, RegistryBlobs, SourceFailed, SourceRefuses

WEB, API = (parse_reference(f"registry.example.com/shop/{name}:1") for name in ("web", "api"))
ELSEWHERE = parse_reference("other.example.com/shop/web:1")


@dataclass
class FakeRegistry:
    """Raises what is next in `errors`, or answers."""

    errors: list[Exception] = field(default_factory=list)
    requests: int = 0

    @contextlib.asynccontextmanager
    async def open(self, image: Reference, credentials: tuple[Credentials, ...]) -> AsyncIterator[RegistryBlobs]:
        yield self

    def manifest(self, digest: str) -> contextlib.AbstractAsyncContextManager[Part]:
        return self.blob(digest, 0)

    @contextlib.asynccontextmanager
    async def blob(self, digest: str, offset: int) -> AsyncIterator[Part]:
        self.requests += 1
        if self.errors:
            raise self.errors.pop(0)
        yield Part(0, _nothing())


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for data in nothing:
        yield data


async def transfer(pauses: RegistryPauses, image: Reference, *, blobs: int = 1) -> None:
    """Read a manifest and blobs; errors are those of the last request."""
    error: Exception | None = None
    async with pauses.open(image, ()) as registry:
        for answer in (registry.manifest("sha256:m"), *(registry.blob("sha256:b", 0) for _ in range(blobs))):
            try:
                async with answer:
                    error = None
            except (SourceFailed, SourceRefuses) as problem:
                error = problem
    if error is not None:
        raise error


@instant
async def test_a_registry_that_does_not_answer_is_asked_again_after_ten_minutes_and_others_at_once() -> None:
    registry = FakeRegistry([SourceFailed("timeout")] * 2)
    pauses = RegistryPauses(registry.open, loop_clock(EPOCH))
    with pytest.raises(SourceFailed):
        await transfer(pauses, WEB)
    for _ in range(3):
        with pytest.raises(SourceRefuses, match="could not reach"):
            await transfer(pauses, API)
    assert registry.requests == 2
    await transfer(pauses, ELSEWHERE)
    await asyncio.sleep(PAUSE_SECONDS)
    await transfer(pauses, API)
    assert registry.requests == 6


@pytest.mark.parametrize("error", [SourceRefuses("403"), SourceFailed("reset")])
@instant
async def test_a_refusal_and_a_failure_after_an_answer_say_nothing_about_other_images(error: Exception) -> None:
    registry = FakeRegistry([error])
    pauses = RegistryPauses(registry.open, loop_clock(EPOCH))
    await transfer(pauses, WEB)
    await transfer(pauses, API)
    assert registry.requests == 4
