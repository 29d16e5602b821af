"""Write the status of WarmPolicies: whether they can be used, their count of images, and rejected writes.

A status is written if it differs. Conditions of other writers stay unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from adapters.kubernetes.errors import Conflict, NotFound
from adapters.kubernetes.warmpolicy import unknown_policy_status
from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.objects import PolicyObject
from handlers.reconcile.observations import Observation
from warmhook.ports import Object
from warmhook.status import condition, find_condition, with_conditions
from warmhook.timestamps import parse_time
from warmhook.transitions import Transition, transitions
from warmhook.warmimages import Template

_log = get_logger()

# How often a status is decided anew after a conflict; then the next sync writes it.
_ATTEMPTS: Final = 3


async def write_status(context: Context, found: PolicyObject, images: int, refused: str | None = None) -> None:
    """Say whether the policy can be used, and that it has so many WarmImages; `refused` as in `write_refusal`."""

    def status(policy: PolicyObject) -> Object:
        before, generation, now = _status(policy), _generation(policy), context.clock.utcnow()
        if policy.newer and before.get("observedGeneration") == generation:
            # Of a replica that knows all its fields.
            return {**before, "images": images, "conditions": with_conditions(before, *_degraded(policy, refused, now))}
        problem = policy.problem
        message = problem or f"{images} image{'' if images == 1 else 's'} wanted{_held_back(policy)}"
        ready = condition(before, "Ready", not problem, "Invalid" if problem else "Usable", message, now, generation)
        conditions = with_conditions(before, ready, *_degraded(policy, refused, now))
        counted = {"observedGeneration": generation, "images": images, "conditions": conditions}
        return unknown_policy_status(before) | counted

    await _write(context, found, status, record=True)
    degraded = find_condition(_status(found), "Degraded")
    if degraded.get("status") == "True" and _is_recent(degraded, context):
        # Of a push, perhaps; the part that takes pushes records no Events.
        refusal = Transition(degraded["reason"], degraded["message"], warning=True)
        await context.recorder.record("WarmPolicy", found.key, found.object["metadata"]["uid"], [refusal])


async def write_refusal(context: Context, found: PolicyObject, refused: str) -> None:
    """Write the rejection of the API server into the condition `Degraded`; empty: no rejection any more.

    The condition has the time of the first rejection, so a rejection of every push costs one write. No Event is
    recorded: the part that is reachable from outside may create none. `write_status` records it at the next sync.
    """

    def status(policy: PolicyObject) -> Object:
        before = _status(policy)
        return {
            **before,
            "conditions": with_conditions(before, *_degraded(policy, refused, context.clock.utcnow())),
        }

    if refused or is_degraded(found):
        await _write(context, found, status, record=False)


def _held_back(found: PolicyObject) -> str:
    """What keeps its images from nodes for now, for people."""
    template = found.policy.template if found.policy is not None else Template()
    states = (", suspended" if template.suspend else "", ", purged" if template.requests.purge else "")
    return "".join(states)


async def write_observation(context: Context, found: PolicyObject, observation: Observation | None) -> None:
    """Write into the condition `Observed` whether the Pods and workloads of the policy could be read.

    `None`: the policy depends on none, and has no such condition.
    """

    def status(policy: PolicyObject) -> Object:
        before, now = _status(policy), context.clock.utcnow()
        if observation is None:
            others = [each for each in before.get("conditions") or [] if each.get("type") != "Observed"]
            return {**before, "conditions": others}
        reason, message = observation.reason, observation.message
        observed = condition(before, "Observed", reason == "Read", reason, message, now, _generation(policy))
        return {**before, "conditions": with_conditions(before, observed)}

    if observation is not None or find_condition(_status(found), "Observed"):
        await _write(context, found, status, record=True)


def _is_recent(condition: Mapping[str, Any], context: Context) -> bool:
    """Whether the condition changed since about the last sync."""
    since = condition.get("lastTransitionTime")
    return since is not None and context.clock.utcnow() - parse_time(since) <= context.grace


def is_degraded(found: PolicyObject) -> bool:
    """Whether its status has a rejection."""
    return find_condition(_status(found), "Degraded").get("status") == "True"


def _degraded(policy: PolicyObject, refused: str | None, now: datetime) -> list[dict[str, Any]]:
    """The condition `Degraded` if it changes; `None` changes nothing."""
    if refused is None or is_degraded(policy) == bool(refused):
        return []
    reason = "WriteRefused" if refused else "WritesTaken"
    return [condition(_status(policy), "Degraded", bool(refused), reason, refused, now, _generation(policy))]


async def _write(
    context: Context, found: PolicyObject, status: Callable[[PolicyObject], Object], *, record: bool
) -> None:
    for _ in range(_ATTEMPTS):
        before, after = _status(found), status(found)
        if after == before:
            return
        metadata = found.object["metadata"]
        try:
            written = await context.writer.patch_policy_status(found.key, metadata["resourceVersion"], after)
        except Conflict:
            present = await context.reader.policy_object(found.key)
            if present is None:
                return
            found = present
            continue
        except NotFound:
            return
        # Other requests that share this list of policies need not write the same again.
        found.object.update(written)
        if found.problem:
            _log.warning("policy-invalid", policy=str(found.key), problem=found.problem)
        if record:
            await context.recorder.record("WarmPolicy", found.key, metadata["uid"], transitions(before, after))
        return


def _status(found: PolicyObject) -> Mapping[str, Any]:
    return found.object.get("status") or {}


def _generation(found: PolicyObject) -> int:
    generation: int = found.object["metadata"].get("generation", 0)
    return generation
