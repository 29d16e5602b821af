"""While the API server fails and `web` restarts, no accepted push is lost and no sender is blocked or disabled."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from random import Random
from typing import Final, TypeVar, get_args

import pytest
import structlog

from tests.delivery.receiver import ECR_HOST, HOST, SECRET, Fault, Receiver
from tests.delivery.senders import ALL, Distribution, EventBridge, GitHub, Harbor, Image, PubSub, Quay, Sender, Trigger
from tests.support.instant import instant, until

pytestmark = pytest.mark.slow

FAULTS: Final[tuple[Fault, ...]] = tuple(fault for fault in get_args(Fault) if fault)
# The API server of a cluster with one control plane node takes as long to restart; Quay and GitHub wait longer.
LONGEST_FAULT_SECONDS: Final = 6.0

SenderT = TypeVar("SenderT", bound=Sender)


class Story:
    """The receiver, and one sender of each kind."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.receiver = Receiver(Random(seed + 1))
        self.senders: list[Sender] = [
            kind(self.receiver.post, Random(seed), ECR_HOST if kind is EventBridge else HOST, SECRET) for kind in ALL
        ]
        self.pushed = 0

    def sender(self, kind: type[SenderT]) -> SenderT:
        return next(sender for sender in self.senders if isinstance(sender, kind))

    def push(self, sender: Sender, images: int = 1) -> None:
        """Push new images."""
        for _ in range(images):
            self.pushed += 1
            digest = f"sha256:{hashlib.sha256(str(self.pushed).encode()).hexdigest()}"
            sender.send(Image(f"shop/{sender.name}-{self.pushed}", "v1", "" if isinstance(sender, Quay) else digest))

    async def settled(self) -> None:
        """Wait until no sender has a delivery left."""
        await until(lambda: not any(sender.waiting for sender in self.senders), seconds=7200, step=1)

    async def assert_nothing_taken_is_lost(self) -> None:
        wanted = await self.receiver.wanted()
        for sender in self.senders:
            for image in sender.taken:
                spec = wanted[f"{sender.host}/{image.repository}:{image.tag}"]
                assert spec.get("digest", "") == image.digest

    async def fail(self) -> None:
        """Let the API server fail in every way, now and then."""
        while True:
            await asyncio.sleep(self.rng.uniform(5, 40))
            self.receiver.fault = self.rng.choice(FAULTS)
            await asyncio.sleep(self.rng.uniform(0.1, LONGEST_FAULT_SECONDS))
            self.receiver.fault = ""

    async def restart(self) -> None:
        """Restart `web` now and then."""
        while True:
            await asyncio.sleep(self.rng.uniform(30, 180))
            self.receiver.kill()
            await asyncio.sleep(self.rng.uniform(0.1, 2))
            self.receiver.start()


@pytest.fixture(autouse=True)
def _captured_logs() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


async def _begin(seed: int = 1) -> Story:
    story = Story(seed)
    await story.receiver.set_up()
    return story


async def _send_through_trouble(seed: int, *, events: int, restarts: bool) -> None:
    story = await _begin(seed)
    coroutines = [story.fail(), story.restart()] if restarts else [story.fail()]
    troubles = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for number in range(events):
        story.push(story.senders[number % len(story.senders)])
        await asyncio.sleep(story.rng.expovariate(1.0))
    await story.settled()
    for trouble in troubles:
        trouble.cancel()
    await asyncio.wait(troubles)

    assert story.pushed == events
    await story.assert_nothing_taken_is_lost()
    statuses = {status for sender in story.senders for status in sender.statuses}
    assert statuses <= {0, 202, 503}
    assert {0, 503} & statuses, "nothing went wrong at all"
    # A Broker cannot use a reply with a body, or takes it for an event.
    assert not any(answer.body for answer in story.sender(Trigger).answers if answer.ok)
    assert not story.sender(Quay).disabled
    for kind in (Distribution, Quay, PubSub, EventBridge, Trigger):
        assert story.sender(kind).lost == [], kind
    # Harbor gives up after three attempts; here the API server fails during every seventh moment.
    assert len(story.sender(Harbor).lost) <= events / 7 / 50
    # GitHub does not repeat. It loses nothing in an outage that is shorter than its timeout, but does while there is no
    # `web`, which is why `web` has two replicas.
    assert (story.sender(GitHub).lost == []) is (0 not in story.sender(GitHub).statuses)
    if not restarts:
        assert story.sender(GitHub).lost == []


@pytest.mark.parametrize("seed", [1, 2])
@instant
async def test_no_accepted_push_is_lost_and_no_sender_is_blocked_while_the_api_server_fails(seed: int) -> None:
    await _send_through_trouble(seed, events=105, restarts=False)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 9))])
@instant
async def test_no_accepted_push_of_a_thousand_is_lost_through_faults_and_restarts(seed: int) -> None:
    await _send_through_trouble(seed, events=1050, restarts=True)


@instant
async def test_distribution_keeps_its_order_and_catches_up_in_seconds() -> None:
    story = await _begin()
    registry = story.sender(Distribution)
    story.receiver.fault = "down"
    story.push(registry, images=20)
    await asyncio.sleep(600)
    assert registry.taken == []
    story.receiver.fault = ""
    began = asyncio.get_running_loop().time()
    await story.settled()

    assert asyncio.get_running_loop().time() - began < 10
    assert [image.repository for image in registry.taken] == [f"shop/distribution-{n}" for n in range(1, 21)]


@pytest.mark.parametrize("kind", [Quay, GitHub])
@pytest.mark.parametrize("fault", FAULTS)
@instant
async def test_a_sender_that_does_not_repeat_waits_while_the_api_server_restarts(
    kind: type[Sender], fault: Fault
) -> None:
    story = await _begin()
    sender = story.sender(kind)
    story.receiver.fault = fault
    story.push(sender, images=3)
    await asyncio.sleep(LONGEST_FAULT_SECONDS)
    story.receiver.fault = ""
    await story.settled()

    assert len(sender.taken) == 3
    assert sender.statuses == [202] * 3
    await story.assert_nothing_taken_is_lost()


@pytest.mark.parametrize("kind", [Distribution, Harbor, PubSub, EventBridge, Trigger])
@instant
async def test_a_sender_that_repeats_is_refused_within_a_second(kind: type[Sender]) -> None:
    story = await _begin()
    sender = story.sender(kind)
    story.receiver.fault = "timeout"
    began = asyncio.get_running_loop().time()

    answer = await sender.attempt(sender.message(Image("shop/a", "v1", "")))

    assert (answer.status, answer.headers["retry-after"], answer.body) == (503, "5", b"")
    assert asyncio.get_running_loop().time() - began < 1


@instant
async def test_a_long_outage_disables_quay_because_a_refused_push_is_never_acknowledged() -> None:
    story = await _begin()
    quay = story.sender(Quay)
    story.receiver.fault = "down"
    story.push(quay, images=3)
    await asyncio.sleep(60)
    story.receiver.fault = ""
    await story.settled()

    assert quay.disabled
    assert set(quay.statuses) == {503}
    assert quay.taken == []
