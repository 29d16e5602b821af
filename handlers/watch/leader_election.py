"""Act only while holding the Lease `warmhook-watch`, so that one of several replicas acts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, KubernetesError, NotFound
from adapters.logs import get_logger
from warmhook.leader_election import LEASE_NAME, LEASE_SECONDS, POLL_SECONDS, RENEW_SECONDS, ElectionState, Lease
from warmhook.ports import Object

_log = get_logger()

# Until a failed renewal is tried again.
_AGAIN_SECONDS: Final = 1.0
# To release the Lease while the process ends.
_RELEASE_SECONDS: Final = 2.0


def new_identity(host: str, rng: random.Random) -> str:
    """A name that no other process has: two processes may run on one host."""
    return f"{host}_{rng.getrandbits(40):010x}"


@dataclass(eq=False)
class LeaderElector:
    """One candidate."""

    kubernetes: Kubernetes
    namespace: str
    identity: str
    clock: Clock
    _failing: bool = False

    def __post_init__(self) -> None:
        self._election = ElectionState(self.identity)

    def leads(self) -> bool:
        """Whether this process may act now. Check it before each request: a process can be stopped anywhere."""
        return self._election.leads(self.clock.monotonic())

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` whenever this process leads, and cancel it when it no longer leads, until this is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                working: asyncio.Task[None] | None = None
                while True:
                    await self._try_acquire_or_renew()
                    if working is None and self.leads():
                        _log.info("leading", identity=self.identity)
                        working = group.create_task(work(), name="work of the leader")
                    elif working is not None and not self.leads():
                        _log.warning("no-longer-leading", identity=self.identity)
                        working.cancel()
                        await asyncio.wait([working])
                        working = None
                    await self.clock.sleep(self._pause())
        finally:
            await self._release()

    def _pause(self) -> float:
        if not self.leads():
            return POLL_SECONDS * (0.8 + 0.4 * self.clock.random())
        # Never beyond the end of the leadership.
        left = self._election.leads_until() - self.clock.monotonic()
        return min(_AGAIN_SECONDS if self._failing else RENEW_SECONDS, left)

    async def _try_acquire_or_renew(self) -> None:
        """Renew the Lease, or acquire it if it has ended."""
        # A holder that gets no answer must notice in time that it has lost the Lease.
        left = self._election.leads_until() - self.clock.monotonic()
        try:
            async with asyncio.timeout(left if left > 0 else LEASE_SECONDS):
                if not self.leads():
                    self._election = self._election.observed(await self._read(), self.clock.monotonic())
                if self._election.may_write(self.clock.monotonic()):
                    await self._write(self.identity)
            self._failing = False
        except Conflict:
            self._election = self._election.overruled()
        except (KubernetesError, TimeoutError) as error:
            self._log_failure(error)

    def _log_failure(self, error: Exception) -> None:
        if not self._failing:
            hint = f"the ServiceAccount must get, create and update leases in the namespace {self.namespace}"
            answered = isinstance(error, KubernetesError) and error.status
            _log.warning(
                "lease-not-written",
                problem=str(error) or "no answer in time",
                hint=hint if answered else "another process leads, or this one leads again once the API server answers",
            )
        self._failing = True

    async def _read(self) -> Lease | None:
        try:
            return _lease(await self.kubernetes.get(paths.leases(self.namespace, LEASE_NAME)))
        except NotFound:
            return None

    async def _write(self, holder: str) -> None:
        """Write the Lease over the version that was seen. Raises `Conflict` if there is a newer one."""
        seen, began = self._election.lease, self.clock.monotonic()
        moment = self.clock.utcnow().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
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
            "metadata": {"name": LEASE_NAME},
            "spec": spec,
        }
        if seen is None:
            written = await self.kubernetes.create(paths.leases(self.namespace), body)
        else:
            body["metadata"]["resourceVersion"] = seen.resource_version
            written = await self.kubernetes.replace(paths.leases(self.namespace, LEASE_NAME), body)
        self._election = self._election.wrote(_lease(written), began, self.clock.monotonic())

    async def _release(self) -> None:
        """Release the Lease, so that the next candidate need not wait for its end."""
        if self.leads():
            with contextlib.suppress(KubernetesError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS):
                    await self._give_back()
        self._election = ElectionState(self.identity)

    async def _give_back(self) -> None:
        try:
            await self._write("")
        except Conflict:
            # A renewal was in flight when this process was told to end.
            self._election = self._election.observed(await self._read(), self.clock.monotonic())
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
