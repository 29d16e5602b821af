"""Turn new Pods into WarmImages, for each policy that selects them, on all nodes for such Pods.

An admission is a hint: a Pod that is refused later costs no more than a warm image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.outcomes import Outcomes
from warmhook.admission_review import Admitted
from warmhook.events import Event
from warmhook.pod_images import AdmissionRefusal, decide_admission, takes_pod, warmimages_for_pod
from warmhook.policies import Upsert, is_expired
from warmhook.warmimages import ObjectKey, WarmImage

_log = get_logger()


async def accept_pods(context: Context, admitted: Sequence[tuple[Event, Admitted]]) -> None:
    """Write the WarmImages that policies want for these Pods, each once.

    Raises `Unavailable` if some may be written later, `Refused` if some never can.
    """
    policies = [policy for policy in await context.reader.policies() if policy.pods is not None]
    now = context.clock.utcnow()
    wanted: dict[ObjectKey, WarmImage] = {}
    for event, pod in admitted:
        moment = min(event.time, now)
        for policy in policies:
            if takes_pod(policy, pod):
                for warmimage in warmimages_for_pod(policy, pod, moment, event.id):
                    # An event that a Broker kept for long may be about deleted Pods.
                    if not is_expired(warmimage, now):
                        wanted[warmimage.key] = warmimage

    outcomes = Outcomes()
    await outcomes.each(
        "admitted",
        wanted.values(),
        partial(_upsert, context),
        name=lambda warmimage: str(warmimage.key),
        group=lambda warmimage: warmimage.key.namespace,
    )
    outcomes.raise_problem()


async def _upsert(context: Context, wanted: WarmImage) -> None:
    async def decide(_attempt: int) -> Upsert | AdmissionRefusal:
        return decide_admission(wanted, await context.reader.warmimage(wanted.key))

    decision = await context.writer.upsert_until_written(wanted.key, decide)
    if isinstance(decision, Upsert):
        result = "refreshed" if decision.replaces else "accepted"
        key, image = str(wanted.key), str(wanted.image)
        _log.info("admitted", event_id=wanted.event_id, image=image, warmimage=key, result=result)
