"""Turn the creation of Pods into WarmImages: for every policy that takes them, on the nodes where more can land."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from adapters.kubernetes.client import Conflict, Kubernetes, NotFound, Unavailable
from handlers.cluster import Cluster
from handlers.pushes import write_warmimage
from warmhook.admissions import asked_for, decide_admission, takes_pod
from warmhook.events import Event
from warmhook.pods import Admitted
from warmhook.policies import Upsert, is_expired
from warmhook.ports import Utcnow
from warmhook.warmimages import ObjectKey, WarmImage

__all__ = ["Admissions"]

_log = structlog.get_logger()

# How often a write is decided anew because another handler wrote first.
_ATTEMPTS: Final = 5
# WarmImages at a time: what a registry pushes goes first.
_AT_ONCE: Final = 4


class Admissions:
    """Accepts what admission saw; a hint, so a Pod that is refused later costs no more than a warm image."""

    def __init__(self, kubernetes: Kubernetes, cluster: Cluster, *, now: Utcnow) -> None:
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._now = now

    async def accept(self, admitted: Sequence[tuple[Event, Admitted]]) -> None:
        """Write what the policies make of these Pods; equal wishes are one. Raises `Unavailable`."""
        policies = [policy for policy in await self._cluster.policies() if policy.pods is not None]
        wanted: dict[ObjectKey, WarmImage] = {}
        for event, pod in admitted:
            moment = min(event.time, self._now())
            for policy in policies:
                if takes_pod(policy, pod):
                    asked = asked_for(policy, pod, moment, event.id)
                    # An event that a Broker kept for long may be about Pods that are long gone.
                    wanted |= {one.key: one for one in asked if not is_expired(one, self._now())}
        turns = asyncio.Semaphore(_AT_ONCE)
        outcomes = await asyncio.gather(*(self._upsert(one, turns) for one in wanted.values()), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _upsert(self, wanted: WarmImage, turns: asyncio.Semaphore) -> None:
        async with turns:
            for _ in range(_ATTEMPTS):
                decision = decide_admission(wanted, await self._cluster.warmimage(wanted.key))
                if not isinstance(decision, Upsert):
                    return
                try:
                    await write_warmimage(self._kubernetes, decision)
                except (Conflict, NotFound):
                    continue
                _log.info(
                    "admitted",
                    event_id=wanted.event_id,
                    image=str(wanted.image),
                    warmimage=str(wanted.key),
                    result="refreshed" if decision.replaces else "accepted",
                )
                return
        raise Unavailable(f"{_ATTEMPTS} other writes of {wanted.key} came first")
