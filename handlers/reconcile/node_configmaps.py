"""Write the ConfigMaps of many nodes: bounded, with back-off, and no node waits for another's trouble."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, NotFound, Refused, Unavailable
from adapters.kubernetes.rate_limit import AdaptiveLimiter, ByteRateLimiter
from adapters.logs import get_logger
from handlers.reconcile.outcomes import Outcomes
from warmhook.api import DROPPED_ANNOTATION
from warmhook.node_lines import (
    MAX_BYTES,
    Line,
    NotALine,
    desired_name,
    new_configmap,
    node_patch,
    over_budget,
    read_line,
)
from warmhook.node_report import report_name
from warmhook.ports import Object, Sleep

__all__ = ["DesiredState", "NodeChange", "NodeWrites", "delete_configmaps"]

Answer = TypeVar("Answer")

_log = get_logger()

_MOST_IN_FLIGHT: Final = 24
"""Of the 32 a process may have; the rest is for reading and for accepting pushes."""
_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 5.0
_METADATA_BYTES: Final = 2048
"""More than what a ConfigMap holds beside its lines."""


@dataclass(frozen=True, slots=True)
class NodeChange:
    """What changes in one node's ConfigMap."""

    node_uid: str
    lines: Mapping[str, Line | None]
    """By key; `None` removes the line."""
    refused: Collection[str] | None = None
    """Keys of all lines without room; `None` where only some of the node's lines were looked at."""
    whole: bool = False
    """Whether there is no ConfigMap and `lines` are all that the node should hold, so that it is created from them."""


DesiredState: TypeAlias = Callable[[str], Awaitable[NodeChange | None]]
"""Every line of the node of that name, as a change that is whole; `None` where it needs no ConfigMap."""


async def delete_configmaps(kubernetes: Kubernetes, namespace: str, node: str) -> None:
    """Delete both ConfigMaps of a Node that is gone; the garbage collector may have done so already."""
    for name in (desired_name(node), report_name(node)):
        await kubernetes.delete(paths.configmaps(namespace, name))


@dataclass(frozen=True, slots=True)
class _Round:
    """What the writes of one projection share."""

    deadline: float
    """On the monotonic clock."""
    turns: asyncio.Semaphore
    """One per node that is being written; keeps a projection of thousands from standing in front of a small one. A node
    that waits for a repeat gives it away meanwhile."""


class NodeWrites:
    """Writes desired ConfigMaps."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        namespace: str,
        budget: ByteRateLimiter,
        *,
        monotonic: Callable[[], float],
        sleep: Sleep,
        rng: random.Random,
    ) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._budget = budget
        self._monotonic = monotonic
        self._sleep = sleep
        self._random = rng
        self._in_flight = AdaptiveLimiter(_MOST_IN_FLIGHT)

    async def write(
        self, changes: Mapping[str, NodeChange], deadline: float, entire: DesiredState, outcomes: Outcomes
    ) -> None:
        """Patch each node's ConfigMap once; where there is none create it from what `entire` says.

        `deadline` is on the monotonic clock. Raises `Unavailable` after all others are done, when some could not be
        written in time; what is refused for good is in `outcomes`.
        """
        names = sorted(changes)
        this = _Round(deadline, asyncio.Semaphore(_MOST_IN_FLIGHT))
        ended = await asyncio.gather(
            *(self._in_turn(name, changes[name], this, entire) for name in names), return_exceptions=True
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
            # Repeating cannot help; the sync finds these nodes again, and others must not wait for them.
            first, problem = next(iter(refused.items()))
            with outcomes.item("node-writes", nodes=str(len(refused)), first=first):
                raise problem
        if late is not None:
            raise late

    async def _in_turn(self, node: str, change: NodeChange, this: _Round, entire: DesiredState) -> None:
        # One node after the other is finished: were all patched first and then created, a slow server would never
        # get to the second.
        async with this.turns:
            await self._write(node, change, this, entire)

    async def _write(self, node: str, change: NodeChange, this: _Round, entire: DesiredState) -> None:
        patch = node_patch(node, change.node_uid, change.lines, change.refused)
        path = paths.configmaps(self._namespace, desired_name(node))
        try:
            if change.whole:
                size = await self._create(node, patch, this)
            else:
                size = await self._send(lambda: self._kubernetes.patch_size(path, patch), this)
        except NotFound:
            if change.whole:
                raise
            whole = await entire(node) if any(change.lines.values()) else None
            if whole is not None:
                await self._write(node, whole, this, entire)
            return
        if size > MAX_BYTES + _METADATA_BYTES:
            await self._make_room(node, change, this)

    async def _create(self, node: str, patch: Object, this: _Round) -> int:
        body = new_configmap(desired_name(node), patch)
        path = paths.configmaps(self._namespace, desired_name(node))
        try:
            await self._send(lambda: self._kubernetes.create(paths.configmaps(self._namespace), body), this)
        except Conflict:
            return await self._send(lambda: self._kubernetes.patch_size(path, patch), this)
        except NotFound as error:
            raise Refused(
                f"namespace {self._namespace} does not exist: create it, or set WARMHOOK_NAMESPACE"
            ) from error
        # On create the API server ignores that nothing is to be tracked.
        untracked: Object = {"metadata": {"managedFields": [{}]}}
        return await self._send(lambda: self._kubernetes.patch_size(path, untracked), this)

    async def _make_room(self, node: str, change: NodeChange, this: _Round) -> None:
        """Take the least important lines out again until the rest fits, and leave a note of which.

        How old a line is does not stand in it: of equal priority those of this change count as the newest.
        """
        path = paths.configmaps(self._namespace, desired_name(node))
        obj = await self._send(lambda: self._kubernetes.get(path), this)
        lines, unreadable = [], []
        for key, text in (obj.get("data") or {}).items():
            if "." not in key:
                try:
                    written = change.lines.get(key)
                    lines.append(replace(read_line(key, text), since=written.since if written else 0.0))
                except NotALine:
                    unreadable.append(key)
        surplus = over_budget(lines)
        if not surplus and not unreadable:
            return
        noted = (obj["metadata"].get("annotations") or {}).get(DROPPED_ANNOTATION, "")
        refused = surplus | set(filter(None, noted.split(",")))
        patch = node_patch(node, change.node_uid, dict.fromkeys([*surplus, *unreadable]), refused)
        await self._send(lambda: self._kubernetes.patch_size(path, patch), this)
        _log.warning("node-full", node=node, lines=len(lines), refused=len(refused), limit_bytes=MAX_BYTES)

    async def _send(self, request: Callable[[], Awaitable[Answer]], this: _Round) -> Answer:
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                answer = await self._send_once(request, this)
            except Conflict as error:
                if error.reason == "AlreadyExists":
                    raise
                problem: Conflict | Unavailable = error
                asked = None
            except Unavailable as error:
                problem, asked = error, error.retry_after_seconds
            else:
                self._in_flight.succeeded()
                if isinstance(answer, int):
                    self._budget.spend(answer)
                return answer
            pause = max(asked or 0.0, wait * self._random.uniform(0.5, 1.0))
            if self._monotonic() + pause > this.deadline:
                raise Unavailable(f"gave up for now: {problem}", retry_after_seconds=asked) from problem
            this.turns.release()
            await self._sleep(pause)
            await this.turns.acquire()
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)

    async def _send_once(self, request: Callable[[], Awaitable[Answer]], this: _Round) -> Answer:
        async with self._in_flight.slot() as slot:
            # Only who holds a place waits for the budget: were it the other way round, all would pass it at once.
            await self._budget.wait()
            if self._monotonic() > this.deadline:
                raise Unavailable("there was more to write than the API server took in time")
            try:
                return await request()
            except Unavailable as error:
                if error.status == 429:
                    self._in_flight.refused(slot)
                raise
