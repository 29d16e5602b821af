"""Write the status of WarmPolicies: whether they can be used, how many images they have, what was refused to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, NotFound
from adapters.logs import get_logger
from handlers.reconcile.reader import PolicyObject, policy_object
from handlers.reconcile.recorder import Recorder
from warmhook.ports import Object, Utcnow
from warmhook.status import condition, find_condition, with_conditions
from warmhook.transitions import transitions

__all__ = ["PolicyStatuses"]

_log = get_logger()

# How often a status is written anew because somebody else wrote first; then the next sync writes it.
_ATTEMPTS: Final = 3


class PolicyStatuses:
    """Writes `WarmPolicy.status` where it differs. Conditions of other writers stay as they are."""

    def __init__(self, kubernetes: Kubernetes, recorder: Recorder | None, *, now: Utcnow) -> None:
        """Without a `recorder` changes of a condition lead to no Events."""
        self._kubernetes = kubernetes
        self._recorder = recorder
        self._now = now

    async def write(self, found: PolicyObject, images: int, *, refused: str | None = None) -> None:
        """Say whether the policy can be used, and that it has so many WarmImages; `refused` as in `note_write`."""

        def status(policy: PolicyObject) -> Object:
            before, generation = _status(policy), policy.object["metadata"].get("generation", 0)
            problem = policy.problem
            message = problem or f"{images} images wanted"
            reason = "Invalid" if problem else "Usable"
            ready = condition(before, "Ready", not problem, reason, message, self._now(), generation)
            conditions = with_conditions(before, ready, *self._degraded(before, refused, generation))
            return {"observedGeneration": generation, "images": images, "conditions": conditions}

        await self._write(found, status)

    async def note_write(self, found: PolicyObject, refused: str) -> None:
        """Say in the condition `Degraded` what the API server refused to write for the policy; empty: nothing any more.

        The condition dates from the first refusal, so a refusal of every push costs one write.
        """

        def status(policy: PolicyObject) -> Object:
            before, generation = _status(policy), policy.object["metadata"].get("generation", 0)
            return {**before, "conditions": with_conditions(before, *self._degraded(before, refused, generation))}

        if refused or is_degraded(found):
            await self._write(found, status)

    def _degraded(self, before: Mapping[str, Any], refused: str | None, generation: int) -> list[dict[str, Any]]:
        holds = find_condition(before, "Degraded").get("status") == "True"
        if refused is None or holds == bool(refused):
            return []
        reason, message = ("WriteRefused", refused) if refused else ("WritesTaken", "")
        return [condition(before, "Degraded", bool(refused), reason, message, self._now(), generation)]

    async def _write(self, found: PolicyObject, status: Callable[[PolicyObject], Object]) -> None:
        path = paths.warmpolicies(found.key)
        for _ in range(_ATTEMPTS):
            before, after = _status(found), status(found)
            if after == before:
                return
            version = found.object["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version}, "status": after}
            try:
                # Who shares this list of policies need not write the same again.
                found.object.update(await self._kubernetes.patch(paths.status(path), body))
            except Conflict:
                try:
                    found = policy_object(await self._kubernetes.get(path))
                except NotFound:
                    return
                continue
            except NotFound:
                return
            if found.problem:
                _log.warning("policy-invalid", policy=str(found.key), problem=found.problem)
            uid = found.object["metadata"]["uid"]
            if self._recorder is not None:
                await self._recorder.record("WarmPolicy", found.key, uid, transitions(before, after))
            return


def is_degraded(found: PolicyObject) -> bool:
    """Whether its status says that something was refused."""
    return find_condition(_status(found), "Degraded").get("status") == "True"


def _status(found: PolicyObject) -> Mapping[str, Any]:
    return found.object.get("status") or {}
