"""Refresh tags: by the registry, once for all nodes, or else by each node, which pulls the tag once more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from adapters.kubernetes.errors import Conflict, NotFound
from adapters.logs import get_logger
from adapters.time_zones import find_zone
from handlers.reconcile.context import Context
from handlers.reconcile.outcomes import Outcomes
from warmhook.refreshes import is_refresh_requested, refresh_cause
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey, WarmImage

_log = get_logger()

ResolveAgain: TypeAlias = Callable[[WarmImage], Awaitable[Mapping[str, Any] | None]]
"""Asks the registry what the tag of a WarmImage names now: fields for its status; `None` if it cannot be asked."""

SCHEDULED_MAX: Final = 100
"""Scheduled refreshes of one sync: those of a thousand WarmImages must not reach a registry or the nodes at once."""
_SECONDS: Final = 5.0
# After this the nodes are asked instead, about all images of that registry.
_ANSWER_SECONDS: Final = 2.0
# How often a status is written anew after a conflict; then the next sync does it.
_ATTEMPTS: Final = 3


@dataclass(eq=False)
class Refreshes:
    """Refreshes WarmImages that are due."""

    context: Context
    resolve_again: ResolveAgain

    async def requested(self, warmimages: Iterable[WarmImage], outcomes: Outcomes) -> set[ObjectKey]:
        """Refresh those whose annotations ask for it; returns them, whose lines may change."""
        return await self._refresh(list(filter(is_refresh_requested, warmimages)), outcomes)

    async def run(self, warmimages: Iterable[WarmImage], outcomes: Outcomes) -> set[ObjectKey]:
        """Refresh what is due, of scheduled ones only the first; returns as `requested` does."""
        now = self.context.clock.utcnow()
        requested, scheduled = list[WarmImage](), list[WarmImage]()
        for warmimage in warmimages:
            match refresh_cause(warmimage, find_zone, now):
                case "requested":
                    requested.append(warmimage)
                case "scheduled":
                    scheduled.append(warmimage)
            # Eight windows of one WarmImage may take a millisecond.
            await asyncio.sleep(0)
        return await self._refresh([*requested, *_first(scheduled)], outcomes)

    async def _refresh(self, due: Collection[WarmImage], outcomes: Outcomes) -> set[ObjectKey]:
        refreshed: set[ObjectKey] = set()
        silent: set[str] = set()

        async def refresh(warmimage: WarmImage) -> None:
            if await self._refresh_one(warmimage, silent):
                refreshed.add(warmimage.key)

        await outcomes.each(
            "refresh",
            due,
            refresh,
            name=lambda warmimage: str(warmimage.key),
            group=lambda warmimage: warmimage.key.namespace,
            seconds=_SECONDS,
        )
        return refreshed

    async def _refresh_one(self, warmimage: WarmImage, silent: set[str]) -> bool:
        """Write the new time into its status, from which the lines follow; returns whether it was due.

        `silent` are hosts of registries that did not answer. Raises `Conflict` if others write its status all the time.
        """
        for attempt in range(_ATTEMPTS):
            cause = refresh_cause(warmimage, find_zone, self.context.clock.utcnow())
            if cause is None:
                return False
            answer, lifecycle = await self._ask(warmimage, silent), warmimage.lifecycle
            status = {
                **(answer or {}),
                "refreshedAt": format_time(self.context.clock.utcnow()),
                "refreshedBy": "Nodes" if answer is None else "Registry",
                # A value that is taken away and comes back is not new.
                "refreshHandled": warmimage.requests.refresh or lifecycle.refresh_handled,
                "policyRefreshHandled": warmimage.template.requests.refresh or lifecycle.policy_refresh_handled,
            }
            try:
                await self.context.writer.patch_warmimage_status(warmimage.key, warmimage.resource_version, status)
            except NotFound:
                return False
            except Conflict:
                present = await self.context.reader.warmimage(warmimage.key)
                if present is None:
                    return False
                if attempt == _ATTEMPTS - 1:
                    raise
                warmimage = present
            else:
                _log.info("refreshed", warmimage=str(warmimage.key), cause=cause, by=status["refreshedBy"])
                return True
        return False

    async def _ask(self, warmimage: WarmImage, silent: set[str]) -> Mapping[str, Any] | None:
        """What the registry says; `None`: each node must look for itself, as for images of Pods in any case.

        Their lines do not follow the registry.
        """
        host = warmimage.image.canonical.host
        if warmimage.pod_origin is not None or host in silent:
            return None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self.resolve_again(warmimage)
        except TimeoutError:
            silent.add(host)
            return None


def _first(scheduled: Iterable[WarmImage]) -> list[WarmImage]:
    """At most `SCHEDULED_MAX`, those that were refreshed longest ago; namespaces take turns.

    What cannot be refreshed stays the oldest, and must not keep the images of other namespaces from their turn.
    """
    taken, ranked = Counter[str](), list[tuple[int, WarmImage]]()
    for warmimage in sorted(scheduled, key=_oldest_first):
        ranked.append((taken[warmimage.key.namespace], warmimage))
        taken[warmimage.key.namespace] += 1
    ranked.sort(key=lambda one: one[0])
    return [warmimage for _, warmimage in ranked[:SCHEDULED_MAX]]


def _oldest_first(warmimage: WarmImage) -> tuple[float, str]:
    refreshed_at = warmimage.lifecycle.refreshed_at
    return (refreshed_at.timestamp() if refreshed_at else float("-inf"), str(warmimage.key))
