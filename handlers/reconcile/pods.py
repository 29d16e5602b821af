"""Turn the creation of Pods into WarmImages: for every policy that takes them, on the nodes where more can land."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from adapters.kubernetes.client import Kubernetes, Unavailable
from adapters.logs import get_logger
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.reader import Reader
from handlers.reconcile.writer import upsert_warmimage
from warmhook.admission_review import Admitted
from warmhook.events import Event
from warmhook.pod_images import decide_admission, takes_pod, warmimages_for_pod
from warmhook.policies import Upsert, is_expired
from warmhook.ports import Utcnow
from warmhook.warmimages import ObjectKey, WarmImage

__all__ = ["PodAdmissions"]

_log = get_logger()

# How often a write is decided anew because another handler wrote first.
_ATTEMPTS: Final = 5


class PodAdmissions:
    """Accepts what admission saw; a hint, so a Pod that is refused later costs no more than a warm image."""

    def __init__(self, kubernetes: Kubernetes, cluster: Reader, *, now: Utcnow) -> None:
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._now = now

    async def accept(self, admitted: Sequence[tuple[Event, Admitted]]) -> None:
        """Write what the policies make of these Pods; equal wishes are one.

        Raises `Unavailable` where some can be written later, `Refused` where some never can.
        """
        policies = [policy for policy in await self._cluster.policies() if policy.pods is not None]
        wanted: dict[ObjectKey, WarmImage] = {}
        for event, pod in admitted:
            moment = min(event.time, self._now())
            for policy in policies:
                if takes_pod(policy, pod):
                    asked = warmimages_for_pod(policy, pod, moment, event.id)
                    # An event that a Broker kept for long may be about Pods that are long gone.
                    wanted |= {one.key: one for one in asked if not is_expired(one, self._now())}
        outcomes = Outcomes()
        await outcomes.each(
            "admitted",
            wanted.values(),
            self._upsert,
            name=lambda one: str(one.key),
            group=lambda one: one.key.namespace,
        )
        outcomes.settle()

    async def _upsert(self, wanted: WarmImage) -> None:
        for _ in range(_ATTEMPTS):
            decision = decide_admission(wanted, await self._cluster.warmimage(wanted.key))
            if not isinstance(decision, Upsert):
                return
            if not await upsert_warmimage(self._kubernetes, decision, self._now):
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
