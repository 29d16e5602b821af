"""Act only while holding the Lease `warmhook-watch`, so that of several replicas one does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, KubernetesError, NotFound
from warmhook.leader_election import LEASE_SECONDS, POLL_SECONDS, RENEW_SECONDS, ElectionState, Lease
from warmhook.ports import Object, Sleep, Utcnow

__all__ = ["LeaderElector", "new_identity"]

_log = structlog.get_logger()

_NAME: Final = "warmhook-watch"
# Until a renewal that failed is tried again.
_AGAIN_SECONDS: Final = 1.0
# For giving the Lease back while the process ends.
_RELEASE_SECONDS: Final = 2.0


def new_identity(host: str, rng: random.Random) -> str:
    """A name that no other process has: two of one host may run side by side."""
    return f"{host}_{rng.getrandbits(40):010x}"


@dataclass(slots=True)
class LeaderElector:
    """One candidate."""

    kubernetes: Kubernetes
    namespace: str
    identity: str
    now: Utcnow
    monotonic: Callable[[], float]
    sleep: Sleep
    rng: random.Random
    _election: ElectionState = field(init=False)
    _troubled: bool = False

    def __post_init__(self) -> None:
        self._election = ElectionState(self.identity)

    def leads(self) -> bool:
        """Whether this process may act now; asked before every request, because a process can be stopped anywhere."""
        return self._election.leads(self.monotonic())

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` whenever this process leads and cancel it when it no longer does; until it is cancelled itself."""
        try:
            async with asyncio.TaskGroup() as group:
                working: asyncio.Task[None] | None = None
                while True:
                    await self._try()
                    if working is None and self.leads():
                        _log.info("leading", identity=self.identity)
                        working = group.create_task(work(), name="work of the leader")
                    elif working is not None and not self.leads():
                        _log.warning("no-longer-leading", identity=self.identity)
                        working.cancel()
                        await asyncio.wait([working])
                        working = None
                    await self.sleep(self._pause())
        finally:
            await self._release()

    def _pause(self) -> float:
        if not self.leads():
            return POLL_SECONDS * self.rng.uniform(0.8, 1.2)
        # Never past the moment at which leading ends.
        left = self._election.leads_until() - self.monotonic()
        return min(_AGAIN_SECONDS if self._troubled else RENEW_SECONDS, left)

    async def _try(self) -> None:
        """Renew or acquire the Lease if that is this process's turn."""
        # A holder that gets no answer must notice in time that it no longer is one.
        left = self._election.leads_until() - self.monotonic()
        try:
            async with asyncio.timeout(left if left > 0 else LEASE_SECONDS):
                if not self.leads():
                    self._election = self._election.observed(await self._read(), self.monotonic())
                if self._election.may_write(self.monotonic()):
                    await self._write(self.identity)
            self._troubled = False
        except Conflict:
            self._election = self._election.overruled()
        except (KubernetesError, TimeoutError) as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._troubled:
            hint = f"the ServiceAccount must get, create and update leases in the namespace {self.namespace}"
            answered = isinstance(error, KubernetesError) and error.status
            _log.warning(
                "lease-not-written",
                problem=str(error) or "no answer in time",
                hint=hint if answered else "another process leads, or this one again, when the API server answers",
            )
        self._troubled = True

    async def _read(self) -> Lease | None:
        try:
            return _lease(await self.kubernetes.get(paths.leases(self.namespace, _NAME)))
        except NotFound:
            return None

    async def _write(self, holder: str) -> None:
        """Write the Lease over the version that was seen. Raises `Conflict` where there is another."""
        seen, began, moment = self._election.lease, self.monotonic(), self.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = seen is not None and seen.holder == holder
        spec: Object = {
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": seen.acquired if seen is not None and same and seen.acquired else moment,
            "renewTime": moment,
            "leaseTransitions": seen.transitions + (not same and bool(holder)) if seen is not None else 0,
        }
        if holder:  # the API server refuses an empty one
            spec["holderIdentity"] = holder
        body: Object = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": _NAME},
            "spec": spec,
        }
        if seen is None:
            written = await self.kubernetes.create(paths.leases(self.namespace), body)
        else:
            body["metadata"]["resourceVersion"] = seen.resource_version
            written = await self.kubernetes.replace(paths.leases(self.namespace, _NAME), body)
        self._election = self._election.wrote(_lease(written), began, self.monotonic())

    async def _release(self) -> None:
        """Give the Lease back, so that the next one need not wait until it ends."""
        if self.leads():
            with contextlib.suppress(KubernetesError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS):
                    await self._give_back()
        self._election = ElectionState(self.identity)

    async def _give_back(self) -> None:
        try:
            await self._write("")
        except Conflict:
            # A renewal was on its way when this process was told to end.
            self._election = self._election.observed(await self._read(), self.monotonic())
            if self.leads():
                await self._write("")


def _lease(obj: Object) -> Lease:
    spec = obj.get("spec") or {}
    return Lease(
        holder=spec.get("holderIdentity") or "",
        resource_version=obj["metadata"]["resourceVersion"],
        duration_seconds=spec.get("leaseDurationSeconds") or LEASE_SECONDS,
        acquired=spec.get("acquireTime") or "",
        transitions=spec.get("leaseTransitions") or 0,
    )
