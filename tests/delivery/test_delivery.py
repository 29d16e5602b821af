"""While the API server fails and `web` restarts: is anything lost that was accepted, or a sender stuck or disabled?"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, TypeVar, get_args

import pytest
import structlog

from tests.delivery.receiver import ECR_HOST, HOST, SECRET, Fault, Receiver
from tests.delivery.senders import ALL, Distribution, EventBridge, GitHub, Harbor, Image, PubSub, Quay, Sender, Trigger
from tests.support.instant import instantly, until

FAULTS: Final[tuple[Fault, ...]] = tuple(fault for fault in get_args(Fault) if fault)
# As long as the API server of one control plane node takes to restart, well within what Quay and GitHub wait.
LONGEST_FAULT_SECONDS: Final = 6.0

Result = TypeVar("Result", bound=Sender)


class Story:
    """The receiver, and one sender of each kind."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.receiver = Receiver(Random(seed + 1))
        self.senders: list[Sender] = [
            kind(self.receiver.post, Random(seed), ECR_HOST if kind is EventBridge else HOST, SECRET) for kind in ALL
        ]
        self.pushed = 0

    def sender(self, kind: type[Result]) -> Result:
        return next(sender for sender in self.senders if isinstance(sender, kind))

    def push(self, sender: Sender) -> None:
        """One more image."""
        self.pushed += 1
        digest = "" if isinstance(sender, Quay) else f"sha256:{hashlib.sha256(str(self.pushed).encode()).hexdigest()}"
        sender.send(Image(f"shop/{sender.name}-{self.pushed}", "v1", digest))

    async def settled(self) -> None:
        """Wait until no sender has anything left to do."""
        await until(lambda: not any(sender.waiting for sender in self.senders), seconds=7200, step=1)

    async def assert_nothing_taken_is_lost(self) -> None:
        wanted = await self.receiver.wanted()
        for sender in self.senders:
            for image in sender.taken:
                spec = wanted[f"{sender.host}/{image.repository}:{image.tag}"]
                assert spec.get("digest", "") == image.digest


async def _trouble(story: Story) -> None:
    """The API server fails now and then, in every way."""
    while True:
        await asyncio.sleep(story.rng.uniform(5, 40))
        story.receiver.fault = story.rng.choice(FAULTS)
        await asyncio.sleep(story.rng.uniform(0.1, LONGEST_FAULT_SECONDS))
        story.receiver.fault = ""


async def _restarts(story: Story) -> None:
    while True:
        await asyncio.sleep(story.rng.uniform(30, 180))
        story.receiver.kill()
        await asyncio.sleep(story.rng.uniform(0.1, 2))
        story.receiver.start()


async def _run(story: Story, *, events: int, restarts: bool) -> None:
    await story.receiver.set_up()
    troubles = [asyncio.create_task(_trouble(story), name="trouble")]
    if restarts:
        troubles.append(asyncio.create_task(_restarts(story), name="restarts"))
    for number in range(events):
        story.push(story.senders[number % len(story.senders)])
        await asyncio.sleep(story.rng.expovariate(1.0))
    await story.settled()
    for trouble in troubles:
        trouble.cancel()
    await asyncio.wait(troubles)


def _tell(seed: int, story_of: Callable[[Story], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await story_of(Story(seed))

    with structlog.testing.capture_logs():
        instantly(run())


def _mixed(events: int, *, restarts: bool, seed: int) -> None:
    async def story_of(story: Story) -> None:
        await _run(story, events=events, restarts=restarts)

        assert story.pushed == events
        await story.assert_nothing_taken_is_lost()
        statuses = {status for sender in story.senders for status in sender.statuses}
        assert statuses <= {0, 202, 503}
        assert {0, 503} & statuses, "nothing went wrong at all"
        assert story.sender(Trigger).strange == []
        assert not story.sender(Quay).disabled
        for kind in (Distribution, Quay, PubSub, EventBridge, Trigger):
            assert story.sender(kind).lost == [], kind
        # Harbor gives up after three attempts; here every seventh moment is one of trouble.
        assert len(story.sender(Harbor).lost) <= events / 7 / 50
        # GitHub asks once. An outage that is shorter than its patience costs nothing; a `web` that is not there does,
        # which is why there are two of it.
        assert (story.sender(GitHub).lost == []) is (0 not in story.sender(GitHub).statuses)
        if not restarts:
            assert story.sender(GitHub).lost == []

    _tell(seed, story_of)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_accepted_is_lost_and_nobody_is_stuck_while_the_api_server_fails(seed: int) -> None:
    _mixed(105, restarts=False, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_over_a_thousand_mixed_events_through_faults_and_restarts(seed: int) -> None:
    _mixed(1050, restarts=True, seed=seed)


def test_distribution_keeps_its_order_and_never_waits_for_long() -> None:
    async def story_of(story: Story) -> None:
        await story.receiver.set_up()
        registry = story.sender(Distribution)
        story.receiver.fault = "down"
        for _ in range(20):
            story.push(registry)
        await asyncio.sleep(600)
        assert registry.taken == []
        story.receiver.fault = ""
        began = asyncio.get_running_loop().time()
        await story.settled()

        assert asyncio.get_running_loop().time() - began < 10
        assert [image.repository for image in registry.taken] == [f"shop/distribution-{n}" for n in range(1, 21)]

    _tell(1, story_of)


@pytest.mark.parametrize("kind", [Quay, GitHub])
@pytest.mark.parametrize("fault", FAULTS)
def test_who_does_not_repeat_is_kept_waiting_while_the_api_server_restarts(kind: type[Sender], fault: Fault) -> None:
    async def story_of(story: Story) -> None:
        await story.receiver.set_up()
        sender = story.sender(kind)
        story.receiver.fault = fault
        for _ in range(3):
            story.push(sender)
        await asyncio.sleep(LONGEST_FAULT_SECONDS)
        story.receiver.fault = ""
        await story.settled()

        assert len(sender.taken) == 3
        assert sender.statuses == [202] * 3
        await story.assert_nothing_taken_is_lost()

    _tell(1, story_of)


def test_who_repeats_is_told_so_within_a_second() -> None:
    async def story_of(story: Story) -> None:
        await story.receiver.set_up()
        story.receiver.fault = "timeout"
        for kind in (Distribution, Harbor, PubSub, EventBridge, Trigger):
            sender = story.sender(kind)
            began = asyncio.get_running_loop().time()
            answer = await sender.attempt(sender.message(Image("shop/a", "v1", "")))
            assert (answer.status, answer.headers["retry-after"], answer.body) == (503, "5", b"")
            assert asyncio.get_running_loop().time() - began < 1

    _tell(1, story_of)


def test_a_long_outage_switches_quay_off_because_a_refusal_is_never_told_as_a_promise() -> None:
    async def story_of(story: Story) -> None:
        await story.receiver.set_up()
        quay = story.sender(Quay)
        story.receiver.fault = "down"
        for _ in range(3):
            story.push(quay)
        await asyncio.sleep(60)
        story.receiver.fault = ""
        await story.settled()

        assert quay.disabled
        assert set(quay.statuses) == {503}
        assert quay.taken == []

    _tell(1, story_of)
