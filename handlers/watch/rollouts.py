"""Watch the workloads of namespaces that have policies with `rollouts`, and queue these policies when one changes.

Only metadata is watched: `generation` changes with every change of a spec, and no status does. Without such a policy
nothing is watched.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from adapters.clock import Backoff, Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, NotServed, Refused
from adapters.kubernetes.pods import WORKLOAD_KINDS, WorkloadKind
from adapters.kubernetes.reflector import ListWatch, Reflector
from adapters.logs import get_logger
from adapters.outages import WatchOutage, WatchOutages
from handlers.watch.work_queue import WorkQueue
from warmhook.events import Changed
from warmhook.ports import Object

_log = get_logger()

NAMESPACES_MAX: Final = 64
"""Namespaces that are watched, with a connection for each kind; in others the next sync sees a rollout."""
_REFUSED_SECONDS: Final = 60.0
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 10.0


def reduced_policy(policy: Object) -> Object:
    """A WarmPolicy with its metadata and whether it has `rollouts`."""
    spec = policy.get("spec")
    has_rollouts = isinstance(spec, dict) and spec.get("rollouts") is not None
    return {"metadata": policy["metadata"], "spec": {"rollouts": has_rollouts}}


@dataclass(eq=False)
class RolloutPolicies:
    """The policies with `rollouts`, by namespace."""

    names: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a namespace may have its first or no such policy."""

    def replace(self, policies: list[Object]) -> None:
        """Replace all policies, as `reduced_policy` returns them."""
        self.names.clear()
        self.changed.set()
        for policy in policies:
            self.update(policy)

    def update(self, policy: Object) -> None:
        """A policy was added or modified."""
        if not policy["spec"]["rollouts"]:
            self.delete(policy)
            return
        self.names[policy["metadata"]["namespace"]].add(policy["metadata"]["name"])
        self.changed.set()

    def delete(self, policy: Object) -> None:
        """A policy was deleted, or has no `rollouts` any more."""
        namespace, name = policy["metadata"]["namespace"], policy["metadata"]["name"]
        if name in self.names.get(namespace, ()):
            self.names[namespace].remove(name)
            if not self.names[namespace]:
                del self.names[namespace]
            self.changed.set()


@dataclass(eq=False)
class _Workloads:
    """The workloads of one namespace: of each what changes with its spec and its labels."""

    namespace: str
    policies: RolloutPolicies
    queue: WorkQueue
    _seen: dict[WorkloadKind, dict[str, bytes]] = field(default_factory=lambda: {kind: {} for kind in WORKLOAD_KINDS})

    def replace(self, kind: WorkloadKind, objects: list[Object]) -> None:
        """Replace all workloads of a kind by those of a list."""
        seen = {obj["metadata"]["name"]: _fingerprint(obj) for obj in objects}
        if seen != self._seen[kind]:
            self._seen[kind] = seen
            self._queue()

    def update(self, kind: WorkloadKind, obj: Object) -> None:
        """A workload was added or modified."""
        name, fingerprint = obj["metadata"]["name"], _fingerprint(obj)
        if self._seen[kind].get(name) != fingerprint:
            self._seen[kind][name] = fingerprint
            self._queue()

    def delete(self, kind: WorkloadKind, obj: Object) -> None:
        """A workload was deleted."""
        if self._seen[kind].pop(obj["metadata"]["name"], None) is not None:
            self._queue()

    def _queue(self) -> None:
        for name in self.policies.names.get(self.namespace, ()):
            self.queue.changed(Changed("WarmPolicy", self.namespace, name))


@dataclass(eq=False)
class RolloutWatches:
    """Watches one kind of workload of one namespace per task."""

    kubernetes: Kubernetes
    policies: RolloutPolicies
    queue: WorkQueue
    clock: Clock
    outages: WatchOutages
    _running: dict[str, list[asyncio.Task[None]]] = field(default_factory=dict)
    _crowded: bool = False
    """Whether there are more namespaces than are watched."""

    async def run(self) -> None:
        """Watch until this is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.policies.changed.clear()
                self._adjust(group)
                await self.policies.changed.wait()

    def _adjust(self, group: asyncio.TaskGroup) -> None:
        wanted = set(self.policies.names)
        for namespace in self._running.keys() - wanted:
            for task in self._running.pop(namespace):
                task.cancel()
        new = sorted(wanted - self._running.keys())
        room = NAMESPACES_MAX - len(self._running)
        for namespace in new[:room]:
            store = _Workloads(namespace, self.policies, self.queue)
            self._running[namespace] = [
                group.create_task(self._watch(kind, store), name=f"follow {kind} of {namespace}")
                for kind in WORKLOAD_KINDS
            ]
        if len(new) > room and not self._crowded:
            hint = f"more than {NAMESPACES_MAX} namespaces have policies with rollouts; a sync sees those of the others"
            _log.warning("rollouts-not-watched", namespaces=len(wanted), hint=hint)
        self._crowded = len(new) > room

    async def _watch(self, kind: WorkloadKind, store: _Workloads) -> None:
        backoff = Backoff(
            self.clock,
            first_seconds=_FIRST_WAIT_SECONDS,
            longest_seconds=_LONGEST_WAIT_SECONDS,
            longest_asked_seconds=_REFUSED_SECONDS,
        )
        what: ListWatch[WorkloadKind] = ListWatch(kind, paths.workloads(kind, store.namespace))
        outage = _Outage(store.namespace, WatchOutage(kind, self.outages))
        await Reflector(self.kubernetes, what, store, self.clock, outage).run(backoff, refused_seconds=_REFUSED_SECONDS)


@dataclass(eq=False)
class _Outage:
    """The outages of one watch. A kind that is not installed is none, and a rejection is logged once."""

    namespace: str
    outage: WatchOutage
    _refused: bool = False

    def failed(self, problem: KubernetesError, *, reached: bool) -> None:
        """A request failed."""
        if isinstance(problem, NotServed):
            return
        if not isinstance(problem, Refused):
            self.outage.failed(problem, reached=reached)
        elif not self._refused:
            self._refused = True
            hint = "bind the ClusterRole warmhook-rollouts, see docs/install.md; until then a sync sees rollouts"
            _log.warning("rollouts-not-watched", namespace=self.namespace, problem=str(problem), hint=hint)

    def recovered(self) -> None:
        """A watch is open."""
        self._refused = False
        self.outage.recovered()


def _fingerprint(obj: Object) -> bytes:
    metadata = obj["metadata"]
    relevant = [metadata.get("uid"), metadata.get("generation"), metadata.get("labels") or {}]
    return hashlib.blake2b(json.dumps(relevant, sort_keys=True).encode(), digest_size=16).digest()
