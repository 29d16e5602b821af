"""Write the ConfigMaps of many nodes with a bound and back-off, so that a node that fails delays no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar

from adapters.clock import Backoff
from adapters.kubernetes.errors import Conflict, NotFound, Refused, Unavailable
from adapters.kubernetes.rate_limit import AdaptiveLimiter, ByteRateLimiter
from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.outcomes import Outcomes
from warmhook.api import DROPPED_ANNOTATION
from warmhook.hint_room import surplus_hints
from warmhook.hints import Early, Hint, early_key, line_of_hint
from warmhook.node_lines import MAX_BYTES, Line, NotALine, node_patch, over_budget, read_line
from warmhook.ports import Object

Answer = TypeVar("Answer")

_log = get_logger()

_MOST_IN_FLIGHT: Final = 24
"""Of the 32 requests of a process; the rest is for reading and for accepting pushes."""
_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 5.0
_METADATA_BYTES: Final = 2048
"""An upper bound of what a ConfigMap holds besides its lines."""


@dataclass(frozen=True, slots=True)
class NodeChange:
    """The changes of the ConfigMap of one node."""

    node_uid: str
    lines: Mapping[str, Line | None]
    """By key; `None` removes the line."""
    refused: Collection[str] | None = None
    """Keys of all lines without room; `None` if only some lines of the node were considered."""
    replace: bool = False
    """Whether `lines` are all lines of a node without a ConfigMap, which is created from them."""
    hints: Mapping[str, Hint | None] = field(default_factory=dict)
    """By the keys of their lines; `None` removes the hint."""
    early: Mapping[str, Early | None] = field(default_factory=dict)
    """The same for blobs of pushes that have not ended."""


DesiredState: TypeAlias = Callable[[str], Awaitable[NodeChange | None]]
"""All lines of the node of that name, as a change with `replace`; `None` if it needs no ConfigMap."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """The shared state of the writes of one projection."""

    deadline: float
    """On the monotonic clock."""
    full: DesiredState
    turns: asyncio.Semaphore
    """One per node that is being written, so that a projection of thousands does not delay a small one. A node that
    waits for its next try gives its turn to another."""


class NodeWrites:
    """Writes desired ConfigMaps."""

    def __init__(self, context: Context, budget: ByteRateLimiter) -> None:
        self._context = context
        self._budget = budget
        self._in_flight = AdaptiveLimiter(_MOST_IN_FLIGHT)

    async def write(
        self, changes: Mapping[str, NodeChange], deadline: float, full: DesiredState, outcomes: Outcomes
    ) -> None:
        """Patch the ConfigMap of each node once, in this order; if it is missing, create it from `full`.

        `deadline` is on the monotonic clock. Raises `Unavailable` after all others are done, if some could not be
        written in time; rejections for good are in `outcomes`.
        """
        names = list(changes)
        batch = _Batch(deadline, full, asyncio.Semaphore(_MOST_IN_FLIGHT))
        ended = await asyncio.gather(
            *(self._in_turn(name, changes[name], batch) for name in names), return_exceptions=True
        )
        refused: dict[str, Refused] = {}
        late: Unavailable | None = None
        for name, outcome in zip(names, ended, strict=True):
            match outcome:
                case NotFound():
                    late = Unavailable(f"the ConfigMap of {name} vanished while it was written")
                case Unavailable():
                    late = outcome
                case Refused():
                    refused[name] = outcome
                case BaseException():
                    raise outcome
        if refused:
            # A repeat cannot help; the sync finds these nodes again, and others must not wait for them.
            first, problem = next(iter(refused.items()))
            with outcomes.item("node-writes", nodes=str(len(refused)), first=first):
                raise problem
        if late is not None:
            raise late

    async def _in_turn(self, node: str, change: NodeChange, batch: _Batch) -> None:
        # One node is finished after the other: with all patches first and creates later, a slow server would never
        # reach the creates.
        async with batch.turns:
            await self._write(node, change, batch)

    async def _write(self, node: str, change: NodeChange, batch: _Batch) -> None:
        patch = node_patch(node, change.node_uid, change.lines, change.refused, change.hints, change.early)
        try:
            size = await (self._create if change.replace else self._patch)(node, patch, batch)
        except NotFound:
            if change.replace:
                raise
            full = await batch.full(node) if any(change.lines.values()) else None
            if full is not None:
                # Other nodes know this one by its hints already.
                hints = {key: hint for key, hint in change.hints.items() if full.lines.get(key) is not None}
                await self._write(node, replace(full, hints=hints), batch)
            return
        if size > MAX_BYTES + _METADATA_BYTES:
            await self._make_room(node, change, batch)

    async def _patch(self, node: str, patch: Object, batch: _Batch) -> int:
        """The size of the ConfigMap in bytes."""
        size = await self._send(lambda: self._context.writer.patch_desired(node, patch), batch)
        self._budget.spend(size)
        self._context.count_written(size)
        return size

    async def _create(self, node: str, patch: Object, batch: _Batch) -> int:
        """The size of the ConfigMap in bytes."""
        try:
            await self._send(lambda: self._context.writer.create_desired(node, patch), batch)
        except Conflict:
            return await self._patch(node, patch, batch)
        # On create the API server ignores the request to track no fields.
        return await self._patch(node, {"metadata": {"managedFields": [{}]}}, batch)

    async def _make_room(self, node: str, change: NodeChange, batch: _Batch) -> None:
        """Remove early blobs, then hints, then lines of the lowest priority until the rest fits, and note their keys.

        A line does not hold its age: of equal priority the lines of this change count as the newest.
        """
        obj = await self._send(lambda: self._context.reader.desired_object(node), batch)
        lines, unreadable, hints, early = [], [], {}, []
        for key, text in (obj.get("data") or {}).items():
            if hinted := line_of_hint(key):
                hints[hinted] = text
            elif key.endswith(early_key("")):
                early.append(key.removesuffix(early_key("")))
            elif "." not in key:
                try:
                    written = change.lines.get(key)
                    lines.append(replace(read_line(key, text), since=written.since if written else 0.0))
                except NotALine:
                    unreadable.append(key)
        surplus = over_budget(lines, self._context.reader.tenancy)
        kept = [line for line in lines if line.key not in surplus]
        without = surplus_hints(kept, hints, self._context.clock.utcnow().timestamp())
        if not surplus and not unreadable and not without and not early:
            return
        refused: frozenset[str] | None = None
        if surplus or unreadable:
            noted = (obj["metadata"].get("annotations") or {}).get(DROPPED_ANNOTATION, "")
            refused = surplus | set(filter(None, noted.split(",")))
        removed = dict.fromkeys([*surplus, *unreadable])
        patch = node_patch(node, change.node_uid, removed, refused, dict.fromkeys(without), dict.fromkeys(early))
        await self._patch(node, patch, batch)
        if refused is not None:
            _log.warning("node-full", node=node, lines=len(lines), refused=len(refused), limit_bytes=MAX_BYTES)

    async def _send(self, request: Callable[[], Awaitable[Answer]], batch: _Batch) -> Answer:
        clock = self._context.clock
        backoff = Backoff(clock, first_seconds=_FIRST_WAIT_SECONDS, longest_seconds=_LONGEST_WAIT_SECONDS)
        while True:
            try:
                answer = await self._send_once(request, batch)
            except (Conflict, Unavailable) as error:
                if error.reason == "AlreadyExists":
                    raise
                problem = error
            else:
                self._in_flight.succeeded()
                return answer
            wanted = problem.retry_after_seconds if isinstance(problem, Unavailable) else None
            pause = max(wanted or 0.0, backoff.seconds())
            if clock.monotonic() + pause > batch.deadline:
                raise Unavailable(f"gave up for now: {problem}", retry_after_seconds=wanted) from problem
            batch.turns.release()
            await clock.sleep(pause)
            await batch.turns.acquire()

    async def _send_once(self, request: Callable[[], Awaitable[Answer]], batch: _Batch) -> Answer:
        async with self._in_flight.slot() as slot:
            # The slot comes first: if all waited for the budget before it, they would pass it together.
            await self._budget.wait()
            if self._context.clock.monotonic() > batch.deadline:
                raise Unavailable("there was more to write than the API server took in time")
            try:
                return await request()
            except Unavailable as error:
                if error.status == 429:
                    self._in_flight.refused(slot)
                raise
