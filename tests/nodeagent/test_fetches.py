"""What other nodes give before a pull makes it no slower and no less certain, and keeps no slot from other images."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from nodeagent.peers.exchange import Fetched
from nodeagent.peers.fetches import Slot
from nodeagent.peers.hints import LineHint
from tests.support.agents import EPOCH, WEB, Bench, a_push, bench, line_of, on_node, warm
from tests.support.instant import instant, until
from tests.support.runtime import digest_of
from warmhook.hints import Child, Hint, Peer, encode_hint, hint_key
from warmhook.node_lines import Line
from warmhook.peers import Transfer
from warmhook.ports import Credentials, Download, NotContainerd, PullFailed, RuntimeUnreachable
from warmhook.pull_queue import ImagePull
from warmhook.warmimages import ObjectKey, Pull

KEY = "k" * 43
PARENT = Peer("node-2", "10.0.0.2:9465", KEY)
CHILD_OF = Hint(int(EPOCH.timestamp()) + 600, parents=(PARENT,))
SEED = replace(CHILD_OF, parents=(), children=(Child("node-3", KEY),), seeds=2)
MIB = 1024 * 1024
OTHER = "registry.example.com/shop/other:1"


@dataclass
class FakeTransfer:
    """Fetches in so many seconds, a part each second; waits for its parents before."""

    waits_seconds: float = 0.0
    released: asyncio.Event | None = None
    """Before it is set, nothing comes."""
    seconds: int = 4
    fetched: Fetched = field(default_factory=lambda: Fetched(40 * MIB, parents={"node-2"}, seconds=4.0))
    """What has come in the end."""
    error: Exception | None = None
    images: list[str] = field(default_factory=list)
    """Every transfer that began, in order."""
    cancelled: list[str] = field(default_factory=list)
    credentials: list[tuple[Credentials, ...]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """What each transfer was to fetch."""
    keys: list[str] = field(default_factory=list)
    """Of the lines by whose hints."""
    kept: list[str] = field(default_factory=list)
    pulled_images: list[str] = field(default_factory=list)

    async def keep(self, found: LineHint) -> None:
        self.kept.append(found.line.image)

    def pulled(self, found: LineHint) -> None:
        self.pulled_images.append(found.line.image)

    async def fetch(
        self, found: LineHint, credentials: tuple[Credentials, ...], progressed: Callable[[Fetched], None]
    ) -> Fetched:
        self.images.append(found.line.image)
        self.credentials.append(credentials)
        self.digests.append(found.digest)
        self.keys.append(found.key)
        try:
            if self.released is not None:
                await self.released.wait()
            await asyncio.sleep(self.waits_seconds)
            for second in range(self.seconds):
                progressed(replace(self.fetched, peer_bytes=self.fetched.peer_bytes * (second + 1) // self.seconds))
                await asyncio.sleep(1)
        except asyncio.CancelledError:
            self.cancelled.append(found.line.image)
            raise
        if self.error is not None:
            raise self.error
        return replace(self.fetched)


def sample(b: Bench, name: str, **labels: str) -> float:
    return b.metrics.registry.get_sample_value(name, labels) or 0


@on_node
async def test_an_image_is_fetched_before_its_pull_and_the_log_the_metrics_and_the_report_say_from_where(
    b: Bench,
) -> None:
    b.peers = fake = FakeTransfer()
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    async with b.agent():
        assert 5 <= await warm(b, line) < 8
    assert fake.images == b.runtime.pulls == [WEB]
    logged = b.events("pull")[0]
    assert (logged["bytes_from_peers"], logged["bytes_from_registry"], logged["parents"]) == (40 * MIB, 0, "node-2")
    assert (logged["transfer_seconds"], logged["unpack_seconds"]) == (4.0, 1.0)
    assert b.report().transfers == {line.version: Transfer(line.version, 40 * 1024, 0, 4000, 1000)}
    assert sample(b, "warmhook_fetched_bytes_total", source="peers") == 40 * MIB
    assert sample(b, "warmhook_transfer_seconds_sum") == pytest.approx(4.0)
    assert sample(b, "warmhook_unpack_seconds_sum") == pytest.approx(1.0)


@pytest.mark.parametrize("hint", [replace(CHILD_OF, parents=()), replace(CHILD_OF, expires_at=1), "{"])
@on_node
async def test_without_parents_or_children_or_a_valid_hint_there_is_only_the_pull(b: Bench, hint: Hint | str) -> None:
    b.peers = fake = FakeTransfer()
    line = a_push(b)
    await b.hint(line, hint)
    async with b.agent():
        assert await warm(b, line) < 3
    assert fake.images == []
    assert "bytes_from_peers" not in b.events("pull")[0]


@pytest.mark.parametrize(
    "error",
    [RuntimeUnreachable("gone"), NotContainerd("no"), PullFailed("DiskFull", "full"), OSError("disk"), KeyError("bug")],
)
@on_node
async def test_a_transfer_that_fails_in_any_way_leaves_the_image_to_the_pull(b: Bench, error: Exception) -> None:
    b.peers = fake = FakeTransfer(error=error, seconds=1)
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    async with b.agent():
        assert await warm(b, line) < 8
    assert fake.images == b.runtime.pulls == [WEB]
    assert len(b.events("transfer-crashed")) == (not isinstance(error, RuntimeUnreachable | NotContainerd | PullFailed))
    assert sample(b, "warmhook_peer_fallbacks_total", reason="ParentsFellShort") == 1


@on_node
async def test_parents_that_give_nothing_are_named_with_what_to_check_and_not_waited_for_again(b: Bench) -> None:
    nothing = Fetched(fallbacks=5, left="its manifest has no source")
    b.peers = fake = FakeTransfer(waits_seconds=30, seconds=0, fetched=nothing)
    b.runtime.pull_seconds = 20
    line = a_push(b)
    b.runtime.fail(WEB, "Network")
    await b.hint(line, CHILD_OF)
    async with b.agent():
        await until(lambda: b.state(line) == "pulling" and "is port 9465 open" in b.detail(line), seconds=100)
        await warm(b, line)
    assert fake.images == [WEB]
    assert b.runtime.pulls == [WEB, WEB]
    event = b.events("peers-fell-short")[0]
    assert (event["reason"], event["parents"]) == ("ParentsUnreachable", ["node-2"])
    assert event["hint"] == "peers not reachable: is port 9465 open between nodes?"
    assert sample(b, "warmhook_peer_fallbacks_total", reason="ParentsUnreachable") == 1


@pytest.mark.parametrize("error", [RuntimeUnreachable("containerd is away"), PullFailed("DiskFull", "disk is full")])
@on_node
async def test_what_failed_on_this_node_is_not_blamed_on_the_port_of_others(b: Bench, error: Exception) -> None:
    b.peers, b.runtime.pull_seconds = FakeTransfer(error=error, seconds=0), 20
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    async with b.agent():
        await until(lambda: str(error) in b.detail(line), seconds=100)
        await warm(b, line)
    assert [event["reason"] for event in b.events("peers-fell-short")] == ["TransferFailed"]
    assert sample(b, "warmhook_peer_fallbacks_total", reason="TransferFailed") == 1


@on_node
async def test_a_new_hint_is_tried_after_one_that_failed(b: Bench) -> None:
    b.peers = fake = FakeTransfer(seconds=1, error=RuntimeUnreachable("gone"))
    line = a_push(b)
    b.runtime.fail(WEB, "Network")
    await b.hint(line, CHILD_OF)
    async with b.agent():
        await until(lambda: len(b.runtime.pulls) == 1)
        await b.hint(line, replace(CHILD_OF, expires_at=CHILD_OF.expires_at + 1))
        await warm(b, line)
    assert fake.images == [WEB, WEB]


@on_node
async def test_a_transfer_to_which_nothing_comes_ends_at_the_limit_of_its_lines(b: Bench) -> None:
    b.peers = fake = FakeTransfer(waits_seconds=3600)
    line = a_push(b, pull=Pull(timeout_seconds=60))
    await b.hint(line, CHILD_OF)
    async with b.agent():
        assert 60 <= await warm(b, line) < 70
    assert fake.cancelled == [WEB]


@pytest.mark.slow
@on_node
async def test_a_transfer_that_goes_on_is_not_stopped_at_that_limit(b: Bench) -> None:
    b.peers = fake = FakeTransfer(seconds=300)
    line = a_push(b, pull=Pull(timeout_seconds=60))
    await b.hint(line, CHILD_OF)
    async with b.agent():
        assert 300 <= await warm(b, line, seconds=400) < 310
    assert fake.cancelled == []
    assert 8 <= len(b.events("fetching")) <= 10


@on_node
async def test_a_transfer_that_waits_for_its_parents_keeps_no_slot_from_other_images(b: Bench) -> None:
    b.parallel_pulls, b.peers = 1, FakeTransfer(waits_seconds=25)
    waiting, other = a_push(b), a_push(b, OTHER, "other")
    await b.hint(waiting, CHILD_OF)
    async with b.agent():
        await until(lambda: b.runtime.pulls == [] and bool(b.requests))
        await b.want(other)
        assert await warm(b, other) < 10
        assert b.state(waiting) == "waiting"
        assert 15 < await warm(b, waiting) < 30
    assert b.runtime.most_running == 1


@on_node
async def test_a_seed_keeps_its_slot_while_it_waits_for_the_registry(b: Bench) -> None:
    b.parallel_pulls, b.peers = 1, FakeTransfer(waits_seconds=10)
    seed, other = a_push(b, pull=Pull(priority=1)), a_push(b, OTHER, "other")
    await b.hint(seed, SEED)
    await b.want(other)
    async with b.agent():
        await warm(b, seed, other)
    assert b.runtime.pulls == [WEB, OTHER]


@pytest.mark.slow
@on_node
async def test_bytes_that_come_when_all_slots_are_taken_wait_for_one(b: Bench) -> None:
    b.parallel_pulls, b.peers = 1, FakeTransfer(waits_seconds=10)
    b.runtime.pull_seconds = 40
    first, *others = [a_push(b, f"registry.example.com/shop/web{i}:1", str(i)) for i in range(4)]
    await b.hint(first, CHILD_OF)
    async with b.agent():
        await asyncio.sleep(5)
        await b.want(*others)
        await warm(b, first, *others, seconds=400)
    assert b.runtime.most_running <= 2
    assert set(b.runtime.pulls) == {first.image, *(line.image for line in others)}
    assert len(b.runtime.pulls) == 4


@on_node
async def test_a_transfer_ends_with_its_line_and_with_the_agent(b: Bench) -> None:
    b.peers = fake = FakeTransfer(seconds=300)
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    async with b.agent():
        await until(lambda: fake.images == [WEB])
        await b.want(without=(line,))
        await until(lambda: fake.cancelled == [WEB])
        await b.hint(line, replace(CHILD_OF, seeds=3))
        await until(lambda: len(fake.images) == 2)
    assert fake.cancelled == [WEB, WEB]
    assert b.runtime.pulls == []


@on_node
async def test_an_image_whose_line_was_suspended_comes_from_other_nodes_when_it_is_wanted_again(b: Bench) -> None:
    b.peers = fake = FakeTransfer(seconds=30)
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    async with b.agent():
        await until(lambda: fake.images == [WEB])
        await b.want(replace(line, suspended=True))
        await until(lambda: fake.cancelled == [WEB])
        await b.want(line)
        await warm(b, line)
    assert fake.images == [WEB, WEB]


@on_node
async def test_a_transfer_that_gave_way_is_left_to_the_runtime_which_keeps_parts_of_layers(b: Bench) -> None:
    b.parallel_pulls, b.peers = 1, (fake := FakeTransfer(seconds=3000))
    slow, other = a_push(b, pull=Pull(timeout_seconds=7200)), a_push(b, OTHER, "other")
    await b.hint(slow, CHILD_OF)
    async with b.agent():
        await asyncio.sleep(5)
        b.runtime.pull_seconds = 1000
        await b.want(other)
        await asyncio.sleep(70)
        third = a_push(b, "registry.example.com/shop/third:1", "third")
        await b.want(third)
        await until(lambda: fake.cancelled == [WEB], seconds=1000, step=1)
        await until(lambda: WEB in b.runtime.pulls, seconds=3000, step=1)
    assert fake.images == [WEB]


@on_node
async def test_a_changed_hint_does_not_restart_a_running_transfer(b: Bench) -> None:
    b.peers = fake = FakeTransfer(seconds=30)
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    async with b.agent():
        await until(lambda: fake.images == [WEB])
        await b.hint(line, replace(CHILD_OF, children=(Child("node-9", KEY),)))
        assert await warm(b, line) < 35
    assert fake.images == [WEB]


@on_node
async def test_a_transfer_to_which_nothing_came_begins_again_with_the_parents_of_a_new_plan(b: Bench) -> None:
    released = asyncio.Event()
    b.peers = fake = FakeTransfer(released=released)
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    async with b.agent():
        await until(lambda: fake.images == [WEB])
        await b.hint(line, replace(CHILD_OF, parents=(replace(PARENT, node="node-7"),)))
        await until(lambda: fake.images == [WEB, WEB], seconds=5)
        released.set()
        await warm(b, line)
    assert fake.cancelled == [WEB]


@on_node
async def test_a_transfer_ends_when_its_tag_is_pushed_again_and_the_new_image_comes_from_other_nodes_too(
    b: Bench,
) -> None:
    b.peers = fake = FakeTransfer(seconds=300)
    first = a_push(b)
    await b.hint(first, CHILD_OF)
    async with b.agent():
        await until(lambda: fake.images == [WEB])
        await asyncio.sleep(5)
        second, fake.seconds = a_push(b, content="second"), 4
        await b.hint(second, CHILD_OF)
        assert await warm(b, second) < 15
    assert fake.digests == [first.digest, second.digest]
    assert (fake.cancelled, b.runtime.pulls) == ([WEB], [WEB])


@on_node
async def test_what_came_for_a_former_push_without_a_slot_does_not_count_for_the_next_one(b: Bench) -> None:
    b.peers = fake = FakeTransfer(seconds=0, waits_seconds=5)
    agent = b.new_agent()
    fetches, pull = agent._fetches, ImagePull(WEB, frozenset(), frozenset({"shop"}), 0, 0.0, 600)
    assert fetches is not None
    full = Slot(give_up=lambda: True, take=lambda: False, progressed=lambda _bytes: None)
    lines = [a_push(b), a_push(b, content="second")]
    for line in lines:
        agent._state.select_lines({line.key: line.encode(), hint_key(line.key): encode_hint(CHILD_OF)})
        assert await fetches.before_pull(pull, (), (), full) is None
    assert fake.digests == [line.digest for line in lines]
    assert await fetches.before_pull(pull, (), (), full) is not None


@pytest.mark.parametrize("purged", [False, True], ids=["deleted", "purged"])
@on_node
async def test_a_transfer_for_lines_of_two_namespaces_begins_again_by_the_hint_of_the_other_when_its_own_ends(
    b: Bench, purged: bool
) -> None:
    b.peers = fake = FakeTransfer(seconds=30)
    line = a_push(b)
    own, other = sorted(
        (replace(line, warmimage=ObjectKey(namespace, "web")) for namespace in ("shop", "games")),
        key=lambda each: each.key,
    )
    for each in (own, other):
        await b.hint(each, CHILD_OF)
    async with b.agent():
        await until(lambda: fake.keys == [own.key])
        await asyncio.sleep(5)
        await (b.want(replace(own, purged=True)) if purged else b.want(without=(own,)))
        assert await warm(b, other) < 35
        assert fake.cancelled == [WEB]
    assert fake.keys[1] == other.key


class OneDigest(FakeTransfer):
    """Other nodes have one digest only."""

    held = ""

    async def fetch(
        self, found: LineHint, credentials: tuple[Credentials, ...], progressed: Callable[[Fetched], None]
    ) -> Fetched:
        if found.digest == self.held:
            return await super().fetch(found, credentials, progressed)
        self.digests.append(found.digest)
        return Fetched(left="its manifest has no source")


@on_node
async def test_a_digest_that_nobody_has_keeps_no_other_line_from_getting_the_image_from_other_nodes(b: Bench) -> None:
    b.peers = fake = OneDigest()
    good = a_push(b)
    fake.held = good.digest
    names = (ObjectKey(f"namespace-{number}", "web") for number in range(1000))
    lines = (replace(good, warmimage=name, digest=digest_of("nobody")) for name in names)
    bad = next(line for line in lines if line.key < good.key)
    for each in (bad, good):
        await b.hint(each, CHILD_OF)
    async with b.agent():
        await warm(b, good)
    assert fake.digests[:2] == [bad.digest, good.digest]
    assert b.events("pull")[0]["bytes_from_peers"] == 40 * MIB


@on_node
async def test_digests_that_nobody_has_delay_a_pull_by_three_transfers_at_most(b: Bench) -> None:
    b.peers = fake = OneDigest()
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    for number in range(8):
        name = ObjectKey(f"namespace-{number}", "web")
        await b.hint(replace(line, warmimage=name, digest=digest_of(str(number))), CHILD_OF)
    async with b.agent():
        await warm(b, line)
    assert len(fake.digests) == 3


@on_node
async def test_a_transfer_that_waited_begins_no_pull_while_an_image_of_its_repository_is_removed(b: Bench) -> None:
    released = asyncio.Event()
    b.peers, b.runtime.remove_seconds = (fake := FakeTransfer(released=released, seconds=1)), 100
    old, new = replace(a_push(b), on_removal="Delete"), a_push(b, "registry.example.com/shop/web:2", "second")
    await b.want(old)
    async with b.agent():
        await warm(b, old)
        await b.hint(new, CHILD_OF)
        await until(lambda: fake.images == [new.image])
        await b.want(without=(old,))
        await until(lambda: b.runtime.removals != [], seconds=300)
        released.set()
        await until(lambda: b.events("removal") != [], seconds=150)
        assert b.runtime.pulls == [old.image]
        await warm(b, new)


@on_node
async def test_a_transfer_that_waited_begins_no_pull_on_a_node_that_lost_images_for_want_of_space(b: Bench) -> None:
    b.peers = FakeTransfer(waits_seconds=30, seconds=1)
    line = a_push(b)
    await b.hint(line, replace(CHILD_OF, expires_at=CHILD_OF.expires_at + 7200))
    async with b.agent() as agent:
        await asyncio.sleep(10)
        for _ in range(3):
            agent._state.disk.lost_images()
        await asyncio.sleep(3500)
        assert b.runtime.pulls == []
        await warm(b, line, seconds=300)


@on_node
async def test_what_other_nodes_gave_counts_as_downloaded_while_the_runtime_pulls_the_rest(b: Bench) -> None:
    b.peers, b.containerd.absent = FakeTransfer(fetched=Fetched(40 * MIB, left="some layers have no source")), False
    b.runtime.hanging.add(WEB)
    line = a_push(b)
    await b.hint(line, CHILD_OF)
    async with b.agent() as agent:
        await until(lambda: b.runtime.pulls == [WEB])
        b.containerd.downloading[WEB] = [Download("sha256:0", 2 * MIB, 5 * MIB)]
        await asyncio.sleep(30)
        assert agent._state.running[WEB].downloaded_bytes == 42 * MIB


@pytest.mark.slow
@on_node
async def test_a_seed_estimates_what_the_registry_gives_to_all_seeds_and_a_child_what_it_gets(b: Bench) -> None:
    b.peers = fake = FakeTransfer(fetched=Fetched(registry_bytes=40 * MIB, seconds=9.0, layers_seconds=4.0))
    line, other = a_push(b), a_push(b, OTHER, "other")
    async with b.agent() as agent:
        agent.peers.serving("10.0.0.1:9465", KEY)
        await b.hint(line, SEED)
        await warm(b, line)
        fake.fetched = Fetched(80 * MIB, seconds=30.0, layers_seconds=4.0)
        await b.hint(other, CHILD_OF)
        await warm(b, other)
        await b.want(without=(line,))
        await until(lambda: (peer := b.report().peer) is not None and peer.rate == 20 * MIB, seconds=300)
    peer = b.report().peer
    assert peer is not None
    assert peer.registry_rates == {"registry.example.com": 20 * MIB}


@dataclass
class Fleet(FakeTransfer):
    """A node whose transfers read from the others in steps, as fast as those have the bytes."""

    node: str = ""
    has: dict[tuple[str, str], int] = field(default_factory=dict)
    """Node and image to the bytes that the node has; of all nodes."""

    async def fetch(
        self, found: LineHint, credentials: tuple[Credentials, ...], progressed: Callable[[Fetched], None]
    ) -> Fetched:
        fetched, image = Fetched(), found.line.image
        while fetched.peer_bytes + fetched.registry_bytes < 10 * MIB:
            await asyncio.sleep(0.1)
            if not found.hint.parents:
                fetched.registry_bytes += MIB
            else:
                there = max(self.has.get((peer.node, image), 0) for peer in found.hint.parents)
                if there <= fetched.peer_bytes:
                    continue
                fetched.peer_bytes = there
            self.has[(self.node, image)] = fetched.peer_bytes + fetched.registry_bytes
            progressed(fetched)
        return fetched


@pytest.mark.parametrize("images", [1, 3, pytest.param(10, marks=pytest.mark.slow)])
@instant
async def test_two_nodes_that_wait_for_each_other_with_different_images_do_not_stand_still(images: int) -> None:
    async with bench("node-1") as one, bench("node-2") as two:
        has: dict[tuple[str, str], int] = {}
        own: dict[str, list[Line]] = {b.node: [] for b in (one, two)}
        for b in (one, two):
            b.parallel_pulls, b.peers = 1, Fleet(node=b.node, has=has)
            for number in range(images):
                image = f"registry.example.com/{b.node}/web{number}:1"
                own[b.node].append(line_of(image, name=f"{b.node}-{number}", digest=digest_of(image)))
        for b, other in ((one, two), (two, one)):
            from_other = replace(CHILD_OF, parents=(Peer(other.node, "10.0.0.2:9465", KEY),))
            for line in own[other.node]:
                b.runtime.registry[line.image] = line.digest
                await b.hint(replace(line, pull=Pull(priority=5)), from_other)
            for line in own[b.node]:
                b.runtime.registry[line.image] = line.digest
                await b.hint(line, SEED)
        async with one.agent(), two.agent():
            seconds = await until(lambda: all(len(b.runtime.pulls) >= 2 * images for b in (one, two)), seconds=600)
        assert seconds < 5 + 8 * images
        for b in (one, two):
            assert len(b.runtime.pulls) == 2 * images
            assert b.runtime.most_running <= 2


@pytest.mark.parametrize(("left", "kept"), [("", []), ("its manifest has no source", [WEB])])
@on_node
async def test_what_a_seed_leaves_to_the_runtime_is_kept_while_it_pulls_and_parents_are_told_at_the_end(
    b: Bench, left: str, kept: list[str]
) -> None:
    b.peers = fake = FakeTransfer(fetched=Fetched(left=left), seconds=1)
    line = a_push(b)
    await b.hint(line, SEED)
    async with b.agent():
        await until(lambda: b.runtime.pulls == [WEB])
        assert fake.pulled_images == []
        await warm(b, line)
    assert (fake.kept, fake.pulled_images) == (kept, [WEB])


@on_node
async def test_parents_are_told_also_if_the_image_came_from_the_registry(b: Bench) -> None:
    b.peers = fake = FakeTransfer(error=RuntimeUnreachable("gone"), seconds=0)
    line = a_push(b)
    b.runtime.fail(WEB, "Network", "Network")
    await b.hint(line, CHILD_OF)
    async with b.agent():
        await warm(b, line)
    assert (fake.images, fake.pulled_images) == ([WEB], [WEB])
