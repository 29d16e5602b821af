"""What is wrong with the exchange of images between nodes keeps no image from its node."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import pytest

from nodeagent.peers import parent as parent_module
from nodeagent.peers.incoming import IncomingBlobs
from tests.support.agents import EPOCH, Bench, a_push, on_node, push_warm, warm
from tests.support.content import MemoryContentStore, absent, unreachable
from tests.support.instant import until
from tests.support.peers import key_of
from warmhook.hints import Child, Hint

KEY = "k" * 43
SEED = Hint(int(EPOCH.timestamp()) + 600, children=(Child("node-2", KEY),))


@on_node
async def test_a_node_without_containerd_is_no_peer_and_pulls_as_always(b: Bench) -> None:
    b.content, b.peer_address = MemoryContentStore(error=absent()), "10.0.0.5"
    async with b.agent():
        await push_warm(b)
        await asyncio.sleep(600)
    assert b.report().peer is None
    assert len(b.events("peers-off")) == 1


@on_node
async def test_without_an_address_nothing_of_containerd_is_asked_for_peers(b: Bench) -> None:
    b.content = MemoryContentStore(error=absent())
    async with b.agent():
        await push_warm(b)
    assert b.events("peers-off") == []


@on_node
async def test_a_runtime_that_starts_late_is_waited_for(b: Bench) -> None:
    b.content, b.peer_address = MemoryContentStore(error=unreachable()), "10.0.0.5"
    b.runtime.unreachable = True
    async with b.agent():
        await asyncio.sleep(30)
        assert b.events("peers-off") == []
        b.content.error, b.runtime.unreachable = absent(), False
        await until(lambda: len(b.events("peers-off")) == 1, seconds=90)
        await push_warm(b)


@on_node
async def test_a_key_that_cannot_be_made_delays_a_pull_by_seconds_and_is_made_again(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    b.content, b.peer_address = MemoryContentStore(), "10.0.0.5"
    tries = 0

    async def make() -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("a bug")
        await asyncio.sleep(3600)
        return key_of("node-1")

    monkeypatch.setattr(parent_module, "make_peer_key", make)
    line = a_push(b)
    await b.hint(line, replace(SEED))
    async with b.agent():
        assert await warm(b, line) < 15
        await until(lambda: tries == 2, seconds=90)
    assert len(b.events("peers-crashed")) == 1
    assert b.runtime.pulls == [line.image]


@on_node
async def test_files_of_an_agent_before_that_cannot_be_removed_are_named_and_keep_no_node_from_the_exchange(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    b.content, b.peer_address = MemoryContentStore(), "10.0.0.5"
    key_wanted = asyncio.Event()

    def read_only(_blobs: IncomingBlobs) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    async def make() -> object:
        key_wanted.set()
        await asyncio.sleep(3600)
        return key_of("node-1")

    monkeypatch.setattr(IncomingBlobs, "remove_files", read_only)
    monkeypatch.setattr(parent_module, "make_peer_key", make)
    async with b.agent():
        await until(key_wanted.is_set)
    assert b.events("peers-crashed") == []
    (event,) = b.events("incoming-not-removed")
    assert event["hint"]
    assert event["folder"] == str(b.state_dir / "incoming")
