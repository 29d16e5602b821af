"""Blobs that are pushed before their manifest are fetched while the node has nothing else to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from adapters.tasks import in_background
from devcluster.registry.images import incompressible_image
from nodeagent.peers.early import EarlyFetches
from nodeagent.peers.early_blob import EARLY_LEASE, EarlyOrder, fetch_blob, hint_of
from nodeagent.peers.exchange import Fetched
from nodeagent.peers.sources import NoSource
from nodeagent.pull_credentials import NOTHING_FOUND, Found
from tests.support.agents import EPOCH, Bench, a_push, on_node
from tests.support.exchange import LINE, Node, blobs_of, layers_of
from tests.support.instant import instant, until
from warmhook.hints import Child, Early, Peer, early_key, encode_early
from warmhook.images import parse_reference
from warmhook.node_lines import Line
from warmhook.pull_queue import ImagePull, Running

MIB = 1024 * 1024
KEY = "k" * 43
HOST = "registry.example.com"


def blob(number: int) -> str:
    return f"sha256:{number:064x}"


@dataclass
class Fetching:
    """Fetches blobs that take a minute each, and knows which run."""

    begun: list[str] = field(default_factory=list)
    orders: list[EarlyOrder] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    ended: list[str] = field(default_factory=list)
    seconds: float = 10.0
    silent_seconds: float = 0.0
    """Before the first byte."""
    error: Exception | None = None

    async def __call__(self, order: EarlyOrder, digest: str, size_bytes: int, fetched: Fetched) -> None:
        self.begun.append(digest)
        self.orders.append(order)
        self.running[digest] += 1
        try:
            for second in range(int(self.seconds)):
                await asyncio.sleep(1)
                if second >= self.silent_seconds:
                    fetched.registry_bytes += size_bytes // int(self.seconds)
            if self.error is not None:
                raise self.error
            self.ended.append(digest)
        finally:
            self.running[digest] -= 1


@dataclass
class OneNode:
    """The early blobs of one node, without the rest of its agent."""

    bench: Bench
    folder: Path
    fetching: Fetching = field(default_factory=Fetching)

    def __post_init__(self) -> None:
        agent = self.bench.new_agent()
        self.state, context = agent._state, agent._context
        self.content = Node(self.folder).content
        self.early = EarlyFetches(context, self.state, no_credentials, self.fetching, self.content)
        self.line = a_push(self.bench)

    def expect(self, blobs: Mapping[str, int], *, seconds: float = 300, line: Line | None = None) -> None:
        """Take a ConfigMap with the line and these blobs."""
        line = line or self.line
        now = self.bench.clock().utcnow().timestamp()
        early = Early(int(now + seconds), HOST, "shop/web", blobs)
        self.take({line.key: line.encode(), early_key(line.key): encode_early(early)})

    def take(self, data: Mapping[str, str]) -> Mapping[str, str]:
        self.state.select_lines(data)
        return self.early.select(data, self.state.lines)

    def pulls(self, *images: str) -> None:
        """These images are being pulled now."""
        pulls = [ImagePull(image, frozenset({"12345678"}), frozenset({"shop"}), 0, 0.0, 600) for image in images]
        self.state.running = {pull.image: Running(pull, 0.0) for pull in pulls}
        self.early.wake.set()


async def no_credentials(*_given: object) -> Found | None:
    return NOTHING_FOUND


@asynccontextmanager
async def one_node(bench: Bench, folder: Path) -> AsyncIterator[OneNode]:
    node = OneNode(bench, folder)
    async with in_background(node.early.run(), "early"):
        yield node


@on_node
async def test_blobs_are_fetched_a_few_at_a_time_and_once(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        node.expect({blob(number): MIB for number in range(5)})
        await asyncio.sleep(5)
        assert node.fetching.running.total() == b.parallel_pulls
        await until(lambda: len(node.fetching.ended) == 5)
        await asyncio.sleep(100)
        assert sorted(node.fetching.begun) == [blob(number) for number in range(5)]
        source = {"source": "registry"}
        assert b.metrics.registry.get_sample_value("warmhook_fetched_bytes_total", source) == 5 * (MIB // 10 * 10)


@on_node
async def test_a_wanted_image_goes_before_blobs(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        node.pulls(f"{HOST}/shop/other:1")
        node.expect({blob(1): MIB})
        await asyncio.sleep(60)
        assert node.fetching.begun == []
        node.pulls()
        await until(lambda: node.fetching.ended == [blob(1)])


@on_node
async def test_a_pull_of_another_image_stops_a_fetch_which_goes_on_later(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        node.expect({blob(1): MIB})
        await asyncio.sleep(5)
        node.pulls(f"{HOST}/shop/other:1")
        await asyncio.sleep(1)
        assert node.fetching.running.total() == 0
        node.pulls()
        await until(lambda: node.fetching.ended == [blob(1)])


@on_node
async def test_a_fetch_goes_on_when_its_push_has_ended_and_the_image_is_pulled(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        node.fetching.seconds = 100
        node.expect({blob(1): MIB, blob(2): MIB, blob(3): MIB})
        await asyncio.sleep(5)
        new = a_push(b, f"{HOST}/shop/web:2", "second")
        node.take({new.key: new.encode()})
        await asyncio.sleep(5)
        node.pulls(new.image)
        await until(lambda: len(node.fetching.ended) == 2)
        await asyncio.sleep(100)
        assert sorted(node.fetching.begun) == [blob(1), blob(2)]


@on_node
async def test_a_fetch_without_a_byte_ends_with_its_push_so_that_the_transfer_of_the_image_can_begin(
    b: Bench, tmp_path: Path
) -> None:
    async with one_node(b, tmp_path) as node:
        node.fetching.seconds = node.fetching.silent_seconds = 100
        node.expect({blob(1): MIB})
        await asyncio.sleep(5)
        assert node.fetching.running.total() == 1
        new = a_push(b, f"{HOST}/shop/web:2", "second")
        node.take({new.key: new.encode()})
        await asyncio.sleep(0.1)
        assert node.fetching.running.total() == 0


@on_node
async def test_a_push_that_never_ends_leaves_nothing_running_and_no_lease(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        node.fetching.seconds = 10_000
        node.expect({blob(1): MIB}, seconds=300)
        lease = f"{EARLY_LEASE}{node.line.key}-1"
        await node.content.create_lease(lease, EPOCH)
        await node.content.create_lease("warmhook-0123456789abcdef-5", EPOCH)
        await asyncio.sleep(290)
        assert node.fetching.running.total() == 1
        assert lease in await node.content.leases()
        await until(lambda: lease not in node.content.held, seconds=200)
        assert node.fetching.running.total() == 0
        assert await node.content.leases() == ["warmhook-0123456789abcdef-5"]


@on_node
async def test_a_lease_stays_until_the_image_of_its_push_has_been_pulled(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        node.expect({blob(1): MIB})
        lease = f"{EARLY_LEASE}{node.line.key}-1"
        await node.content.create_lease(lease, EPOCH)
        await until(lambda: node.fetching.ended == [blob(1)])
        node.take({node.line.key: node.line.encode()})
        node.pulls(node.line.image)
        await asyncio.sleep(500)
        assert lease in node.content.held
        node.pulls()
        await until(lambda: lease not in node.content.held)


@on_node
async def test_a_lease_that_an_agent_before_left_goes(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        await node.content.create_lease(f"{EARLY_LEASE}{LINE}-1", EPOCH)
        await until(lambda: not node.content.held, seconds=200)


@on_node
async def test_a_blob_that_nobody_has_is_tried_again_and_not_at_once(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        node.fetching.error = NoSource(blob(1))
        node.expect({blob(1): MIB})
        await asyncio.sleep(100)
        assert 3 <= len(node.fetching.begun) <= 10
        assert b.events("early-blob")[0]["problem"] == "nobody has it"


@on_node
async def test_an_unexpected_error_of_one_blob_keeps_no_other_from_being_fetched(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        node.fetching.error = KeyError("bug")
        node.expect({blob(1): MIB})
        await asyncio.sleep(15)
        node.fetching.error = None
        node.expect({blob(1): MIB, blob(2): MIB})
        await until(lambda: blob(2) in node.fetching.ended)


@pytest.mark.parametrize("free", [30, 20.5], ids=["no room", "low"])
@on_node
async def test_the_disk_keeps_its_free_share(b: Bench, free: float, tmp_path: Path) -> None:
    b.free_percent, b.disk_bytes = lambda: free, 100 * MIB
    async with one_node(b, tmp_path) as node:
        node.state.disk.measured(b.space(), {})
        node.expect({blob(1): 50 * MIB})
        await asyncio.sleep(60)
        assert node.fetching.begun == []


@on_node
async def test_a_node_that_lost_images_for_want_of_space_fetches_none_until_pulls_start_as_usual_again(
    b: Bench, tmp_path: Path
) -> None:
    async with one_node(b, tmp_path) as node:
        for _ in range(3):
            node.state.disk.lost_images()
        await asyncio.sleep(3700)
        node.expect({blob(1): MIB}, seconds=7200)
        await asyncio.sleep(600)
        assert node.fetching.begun == []
        await until(lambda: node.fetching.ended == [blob(1)], seconds=3600)


@on_node
async def test_blobs_that_came_since_the_disk_was_measured_count(b: Bench, tmp_path: Path) -> None:
    b.free_percent, b.disk_bytes = lambda: 30, 100 * MIB
    async with one_node(b, tmp_path) as node:
        node.state.disk.measured(b.space(), {})
        node.expect({blob(number): 2 * MIB for number in range(8)})
        await asyncio.sleep(200)
        assert len(node.fetching.ended) == 2
        node.state.disk.measured(b.space(), {})
        await until(lambda: len(node.fetching.ended) == 4)


@pytest.mark.parametrize(
    "changed",
    [
        {"repository": "shop/other"},
        {"host": "evil.example.com"},
        {"expires_at": 1},
        {"blobs": {"sha512:" + "a" * 128: 5}},
    ],
    ids=["repository", "host", "expired", "algorithm"],
)
@on_node
async def test_only_blobs_of_the_repository_of_a_line_are_fetched(
    b: Bench, changed: dict[str, object], tmp_path: Path
) -> None:
    async with one_node(b, tmp_path) as node:
        early = Early(int(EPOCH.timestamp()) + 300, HOST, "shop/web", {blob(1): MIB})
        text = encode_early(replace(early, **changed))  # type: ignore[arg-type]
        assert node.take({node.line.key: node.line.encode(), early_key(node.line.key): text}) == {}
        await asyncio.sleep(30)
        assert node.fetching.begun == []


@on_node
async def test_blobs_without_a_line_or_of_a_suspended_one_are_not_fetched(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        early = encode_early(Early(int(EPOCH.timestamp()) + 300, HOST, "shop/web", {blob(1): MIB}))
        node.take({early_key(node.line.key): early})
        suspended = replace(node.line, suspended=True)
        node.take({suspended.key: suspended.encode(), early_key(suspended.key): early})
        await asyncio.sleep(30)
        assert node.fetching.begun == []


@on_node
async def test_a_registry_on_the_node_itself_is_not_read(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        line = a_push(b, "127.0.0.1:5000/shop/web:1")
        early = encode_early(Early(int(EPOCH.timestamp()) + 300, "127.0.0.1:5000", "shop/web", {blob(1): MIB}))
        node.take({line.key: line.encode(), early_key(line.key): early})
        await asyncio.sleep(30)
        assert node.fetching.begun == []


@on_node
async def test_what_is_no_list_of_blobs_is_named(b: Bench, tmp_path: Path) -> None:
    async with one_node(b, tmp_path) as node:
        problems = node.take({node.line.key: node.line.encode(), early_key(node.line.key): "{}"})
        assert list(problems) == [early_key(node.line.key)]


# --- one blob ---------------------------------------------------------------------------------------------------------

IMAGE = incompressible_image(0.02, "app", layers=2)


def order(node: Node) -> EarlyOrder:
    early = Early(node.hint.expires_at, HOST, "shop", {}, node.hint.parents, node.hint.children, 1)
    return EarlyOrder(LINE, parse_reference(f"{HOST}/shop:1"), "", hint_of(early))


@instant
async def test_a_seed_reads_a_blob_from_the_registry_and_keeps_it_by_a_lease(tmp_path: Path) -> None:
    node = Node(tmp_path, children=("b",))
    node.registry.blobs = blobs_of(IMAGE)
    layer = layers_of(IMAGE)[0]
    fetched = Fetched()
    await fetch_blob(node.exchange, order(node), layer, len(node.registry.blobs[layer]), fetched)
    assert node.content.blobs[layer] == node.registry.blobs[layer]
    assert (fetched.registry_bytes, fetched.peer_bytes) == (len(node.registry.blobs[layer]), 0)
    (lease,) = node.content.held
    assert lease.startswith(f"{EARLY_LEASE}{LINE}-")
    assert node.content.held[lease] == {layer}
    assert 0 <= node.content.expires_at[lease].timestamp() - node.hint.expires_at < 300


@instant
async def test_a_node_with_parents_leaves_the_registry_alone(tmp_path: Path) -> None:
    node = Node(tmp_path, parents=("a",))
    node.registry.blobs = blobs_of(IMAGE)
    layer, fetched = layers_of(IMAGE)[0], Fetched()
    with pytest.raises(NoSource):
        await fetch_blob(node.exchange, order(node), layer, len(IMAGE.blobs[1]), fetched)
    assert node.registry.requests == []
    node.parents[0].blobs = blobs_of(IMAGE)
    await fetch_blob(node.exchange, order(node), layer, len(IMAGE.blobs[1]), fetched)
    assert fetched.parents == {"a"}


@instant
async def test_the_transfer_of_the_image_fetches_only_what_was_not_there_early(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.registry.blobs = blobs_of(IMAGE)
    for layer in layers_of(IMAGE):
        await fetch_blob(node.exchange, order(node), layer, len(node.registry.blobs[layer]), Fetched())
    node.registry.requests.clear()
    await node.fetch(IMAGE)
    assert node.has(IMAGE)
    assert {digest for digest, _ in node.registry.requests}.isdisjoint(layers_of(IMAGE))


def test_a_lease_ends_with_the_push_or_soon_after() -> None:
    def lease(expires_at: int) -> EarlyOrder:
        early = Early(expires_at, HOST, "shop", {}, (Peer("a", "10.0.0.5:9465", KEY),), (Child("b", KEY),), 3)
        return EarlyOrder(LINE, parse_reference(f"{HOST}/shop:1"), "", hint_of(early))

    assert lease(600).lease == lease(301).lease == f"warmhook-early-{LINE}-600"
    assert lease(601).lease == f"warmhook-early-{LINE}-900"
    assert lease(601).expires_at.timestamp() == 900
    assert (lease(1).hint.parents, lease(1).hint.children, lease(1).hint.seeds) == (
        (Peer("a", "10.0.0.5:9465", KEY),),
        (Child("b", KEY),),
        3,
    )
