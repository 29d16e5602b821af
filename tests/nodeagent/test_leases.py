"""A lease is there as long as a pull or a child needs it, and no longer, whatever the agent did before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import structlog
import structlog.testing

from adapters.tasks import in_background
from nodeagent.peers.hints import Hints
from nodeagent.peers.leases import Leases
from tests.support.agents import EPOCH, WEB, line_of
from tests.support.content import MemoryContentStore, unreachable
from tests.support.instant import instant, loop_clock, until
from tests.support.runtime import digest_of
from warmhook.desired_lines import DesiredLine
from warmhook.hints import Child, Hint, encode_hint, hint_key

KEY = "k" * 43
LINE = line_of(WEB, digest=digest_of("web"))
END = int(EPOCH.timestamp()) + 600
HINT = Hint(END, children=(Child("node-2", KEY), Child("node-3", KEY)))
LEASE = f"warmhook-{LINE.key}-{END}"


@dataclass
class World:
    content: MemoryContentStore
    hints: Hints
    leases: Leases
    lacking: set[str] = field(default_factory=set)

    @property
    def there(self) -> set[str]:
        """The leases that are there."""
        return set(self.content.held)

    def hint(self, hint: Hint | None) -> None:
        data = {} if hint is None else {hint_key(LINE.key): encode_hint(hint)}
        self.hints.select(data, {LINE.key: DesiredLine(LINE, LINE.version, 0)})
        self.leases.wake.set()


@contextlib.asynccontextmanager
async def world(*leases: str, hint: Hint | None = HINT) -> AsyncIterator[World]:
    clock = loop_clock(EPOCH)
    content = MemoryContentStore(held={lease: set() for lease in leases})
    hints, lacking = Hints(clock), set[str]()
    own = Leases(content, hints, lacking.__contains__, clock, structlog.get_logger())
    made = World(content, hints, own, lacking)
    made.hint(hint)
    async with in_background(own.run(), "leases"):
        yield made


@instant
async def test_a_lease_goes_when_all_children_are_done() -> None:
    async with world(LEASE) as w:
        w.leases.done(LINE.key, "node-2")
        await asyncio.sleep(60)
        assert w.there == {LEASE}
        w.leases.done(LINE.key, "node-3")
        await until(lambda: not w.there, seconds=3)


@instant
async def test_a_lease_stays_while_the_image_is_still_to_be_pulled_here() -> None:
    async with world(LEASE, hint=replace(HINT, children=())) as w:
        w.lacking.add(WEB)
        await asyncio.sleep(100)
        assert w.there == {LEASE}
        w.lacking.clear()
        w.leases.wake.set()
        await until(lambda: not w.there, seconds=3)


@instant
async def test_a_lease_goes_with_its_hint_and_at_its_expiry() -> None:
    async with world(LEASE) as w:
        await asyncio.sleep(10)
        w.hint(None)
        await until(lambda: not w.there, seconds=3)
    async with world(LEASE) as w:
        assert 590 < await until(lambda: not w.there, seconds=700) < 605


@instant
async def test_what_a_killed_agent_left_goes_at_the_start_and_leases_of_others_stay() -> None:
    others = {"warmhook-early-1", "ctr-123", "warmhook-", f"warmhook-{LINE.key}"}
    old = f"warmhook-{LINE.key}-{END - 10_000}"
    async with world(LEASE, old, f"warmhook-0123456789abcdef-{END}", *others) as w:
        await until(lambda: w.there == {LEASE, *others}, seconds=1)


@instant
async def test_a_child_of_an_image_that_is_not_served_changes_nothing_and_a_new_digest_begins_anew() -> None:
    async with world(LEASE) as w:
        w.leases.done("0123456789abcdef", "node-2")
        w.leases.done(LINE.key, "node-2")
        w.leases.done(LINE.key, "node-9")
        await asyncio.sleep(60)
        assert w.there == {LEASE}


@instant
async def test_a_runtime_that_does_not_answer_is_asked_again() -> None:
    async with world(LEASE, hint=None) as w:
        w.content.error = unreachable()
        await asyncio.sleep(100)
        w.content.error = None
        await until(lambda: not w.there, seconds=70)


@instant
async def test_a_runtime_that_is_away_for_hours_is_logged_every_few_minutes_with_what_to_check() -> None:
    with structlog.testing.capture_logs() as logged:
        async with world(LEASE, hint=None) as w:
            w.content.error = unreachable()
            await asyncio.sleep(3600)
            w.content.error = None
            await until(lambda: not w.there, seconds=70)
    assert 10 <= len([event for event in logged if event["event"] == "leases-not-ended" and event["hint"]]) <= 13
    assert logged[-1]["event"] == "leases-not-ended-over"


@instant
async def test_a_lease_stays_for_children_that_know_the_image_by_another_line() -> None:
    async with world(LEASE, hint=replace(HINT, children=())) as w:
        other = replace(LINE, warmimage=replace(LINE.warmimage, name="other"))
        hints = {hint_key(LINE.key): replace(HINT, children=()), hint_key(other.key): HINT}
        data = {key: encode_hint(hint) for key, hint in hints.items()}
        w.hints.select(data, {line.key: DesiredLine(line, line.version, 0) for line in (LINE, other)})
        await asyncio.sleep(60)
        assert w.there == {LEASE}
        for child in HINT.children:
            w.leases.done(other.key, child.node)
        await until(lambda: not w.there, seconds=3)
