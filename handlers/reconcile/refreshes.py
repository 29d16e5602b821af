"""Refresh tags: by the registry, once for all nodes, or else by each node, which pulls the tag once more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from adapters.kubernetes.errors import Conflict, NotFound
from adapters.logs import get_logger
from adapters.time_zones import find_zone
from handlers.reconcile.context import Context
from handlers.reconcile.objects import WarmImages
from handlers.reconcile.outcomes import Outcomes
from warmhook.refreshes import is_refresh_requested, refresh_cause
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey, WarmImage

_log = get_logger()

ResolveAgain: TypeAlias = Callable[[WarmImage], Awaitable[Mapping[str, Any] | None]]
"""Asks the registry what the tag of a WarmImage names now: fields for its status; `None` if it cannot be asked."""

SCHEDULED_MAX: Final = 100
"""Scheduled refreshes of one sync: those of a thousand WarmImages must not reach a registry or the nodes at once."""
_SECONDS: Final = 6.0
# How often a status is written anew after a conflict; then the next sync does it.
_ATTEMPTS: Final = 3


@dataclass(eq=False)
class Refreshes:
    """Refreshes WarmImages that are due."""

    context: Context
    resolve_again: ResolveAgain

    async def requested(self, found: WarmImages, outcomes: Outcomes) -> WarmImages:
        """`found`, after refreshes that annotations ask for."""
        due = [warmimage for warmimage in found.usable.values() if is_refresh_requested(warmimage)]
        refreshed = await self._refresh(due, outcomes)
        return replace(found, usable={**found.usable, **refreshed}) if refreshed else found

    async def run(self, warmimages: Iterable[WarmImage], outcomes: Outcomes) -> bool:
        """Refresh what is due, of scheduled ones those that were refreshed longest ago; whether any was."""
        now = self.context.clock.utcnow()
        requested, scheduled = list[WarmImage](), list[WarmImage]()
        for warmimage in warmimages:
            match refresh_cause(warmimage, find_zone, now):
                case "requested":
                    requested.append(warmimage)
                case "scheduled":
                    scheduled.append(warmimage)
        scheduled.sort(key=_oldest_first)
        return bool(await self._refresh([*requested, *scheduled[:SCHEDULED_MAX]], outcomes))

    async def _refresh(self, due: Collection[WarmImage], outcomes: Outcomes) -> dict[ObjectKey, WarmImage]:
        refreshed: dict[ObjectKey, WarmImage] = {}

        async def refresh(warmimage: WarmImage) -> None:
            if (after := await self._refresh_one(warmimage)) is not None:
                refreshed[warmimage.key] = after

        await outcomes.each(
            "refresh",
            due,
            refresh,
            name=lambda warmimage: str(warmimage.key),
            group=lambda warmimage: warmimage.key.namespace,
            seconds=_SECONDS,
        )
        return refreshed

    async def _refresh_one(self, warmimage: WarmImage) -> WarmImage | None:
        """The WarmImage with the new time in its status, from which the lines follow; `None` if it is not due.

        Raises `Conflict` if others write its status all the time.
        """
        for attempt in range(_ATTEMPTS):
            cause = refresh_cause(warmimage, find_zone, self.context.clock.utcnow())
            if cause is None:
                return None
            # The lines of Pods' images do not follow the registry, so their nodes look for themselves.
            answer = await self.resolve_again(warmimage) if warmimage.pod_origin is None else None
            lifecycle = warmimage.lifecycle
            status = {
                **(answer or {}),
                "refreshedAt": format_time(self.context.clock.utcnow()),
                "refreshedBy": "Nodes" if answer is None else "Registry",
                # A value that is taken away and comes back is not new.
                "refreshHandled": warmimage.requests.refresh or lifecycle.refresh_handled,
                "policyRefreshHandled": warmimage.template.requests.refresh or lifecycle.policy_refresh_handled,
            }
            try:
                after = await self.context.writer.patch_warmimage_status(warmimage, status)
            except NotFound:
                return None
            except Conflict:
                present = await self.context.reader.warmimage(warmimage.key)
                if attempt == _ATTEMPTS - 1:
                    raise
                if present is None:
                    return None
                warmimage = present
            else:
                _log.info("refreshed", warmimage=str(warmimage.key), cause=cause, by=status["refreshedBy"])
                return replace(after, limits=warmimage.limits)
        return None


def _oldest_first(warmimage: WarmImage) -> tuple[float, str]:
    refreshed_at = warmimage.lifecycle.refreshed_at
    return (refreshed_at.timestamp() if refreshed_at else float("-inf"), str(warmimage.key))
