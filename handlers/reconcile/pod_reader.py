"""Read Pods and workloads of single namespaces, each of which may refuse or hang without delaying the others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Gone, KubernetesError, NotServed, Refused, Unavailable
from adapters.kubernetes.pods import (
    PODS_PAGE,
    RUNNING_FIELDS,
    WORKLOAD_KINDS,
    WorkloadKind,
    nodes_running,
    read_existing_pod,
    read_workload,
    reduced_running_pod,
)
from adapters.logs import get_logger
from warmhook.admission_review import Admitted
from warmhook.labels import Selector
from warmhook.placement import PodQuery, pod_queries
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey, WarmImage
from warmhook.workload_images import Workload

_log = get_logger()

_SECONDS: Final = 4.0
"""For the reads of one namespace; less than a sync has for the policies of all namespaces."""
_AMONG_OTHERS_SECONDS: Final = 1.0
"""For reads that the lines of other namespaces wait for; and results so recent serve as well."""
_FAILED_SECONDS: Final = 30.0
# The API server lists up to so many different selectors of one namespace; beyond that all Pods are matched here.
_SELECTORS: Final = 4
_ABSENT_SECONDS: Final = 60.0
_QUERY_MAX: Final = 4000
_KNOWN_MAX: Final = 2000

What: TypeAlias = Literal["Pods", "workloads"]
_ROLES: Final[Mapping[What, str]] = {"Pods": "warmhook-pods", "workloads": "warmhook-rollouts"}

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class RunningPods:
    """The nodes of the Pods that placements depend on."""

    nodes: Mapping[PodQuery, frozenset[str]] = field(default_factory=dict)
    unknown: Mapping[ObjectKey, KubernetesError] = field(default_factory=dict)
    """The WarmImages whose Pods could not be read: their lines stay as they are."""


@dataclass(eq=False)
class PodReader:
    """Reads Pods and workloads by LIST; nothing watches all Pods."""

    kubernetes: Kubernetes
    own_namespace: str
    """Of the ServiceAccount of the handlers."""
    clock: Clock
    _known: dict[PodQuery, tuple[float, frozenset[str]]] = field(default_factory=dict)
    """The last results, and when they were asked for, on the monotonic clock."""
    _failed: dict[str, tuple[float, KubernetesError]] = field(default_factory=dict)
    """By namespace when the last read of running Pods failed, and why, if it did."""
    _hung: dict[str, float] = field(default_factory=dict)
    """By namespace when a read was not answered in time."""
    _refused: set[tuple[str, What]] = field(default_factory=set)
    """What was refused when it was read last, by namespace."""
    _absent: dict[tuple[str, WorkloadKind], float] = field(default_factory=dict)
    """Until when a kind that is not installed is not read again, by namespace."""

    async def running(
        self, warmimages: Iterable[WarmImage], *, at_most_seconds: float = 0.0, within_seconds: float = _SECONDS
    ) -> RunningPods:
        """The nodes of the Pods that the placement of these depends on, not read longer ago than `at_most_seconds`.

        If that is not 0, a namespace that failed within the last 30 seconds is not read either. What is not read
        `within_seconds` is unknown.
        """
        wanted = {
            warmimage.key: [query for all_of in pod_queries(warmimage) for query in all_of] for warmimage in warmimages
        }
        recent = self.clock.monotonic() - at_most_seconds
        queries = {query for needed in wanted.values() for query in needed}
        nodes = {
            query: self._known[query][1]
            for query in queries
            if at_most_seconds and query in self._known and self._known[query][0] >= recent
        }
        selectors: defaultdict[str, list[Selector]] = defaultdict(list)
        for query in sorted(queries - nodes.keys(), key=lambda query: (query.namespace, query.selector.query())):
            selectors[query.namespace].append(query.selector)
        problems: dict[str, KubernetesError] = {}

        async def read(namespace: str) -> None:
            failed_at, problem = self._failed.get(namespace, (float("-inf"), None))
            if problem is not None and at_most_seconds and self.clock.monotonic() - failed_at < _FAILED_SECONDS:
                problems[namespace] = problem
                return
            try:
                reading = partial(self._running, namespace, selectors[namespace])
                nodes.update(await self._in_time("Pods", namespace, reading, within_seconds))
                self._failed.pop(namespace, None)
            except KubernetesError as error:
                problems[namespace] = error
                self._failed[namespace] = (self.clock.monotonic(), error)

        await asyncio.gather(*map(read, selectors))
        unknown = {key: problems[key.namespace] for key, needed in wanted.items() if not nodes.keys() >= set(needed)}
        return RunningPods(nodes, unknown)

    async def among_others(self, warmimages: Iterable[WarmImage]) -> RunningPods:
        """As `running`, for all lines of a node: nodes that change one after another cost a list in a second."""
        seconds = _AMONG_OTHERS_SECONDS
        return await self.running(warmimages, at_most_seconds=seconds, within_seconds=seconds)

    async def _running(self, namespace: str, selectors: Collection[Selector]) -> dict[PodQuery, frozenset[str]]:
        began = self.clock.monotonic()

        async def listed(selector: Selector) -> list[Object]:
            found = await self.kubernetes.list(
                paths.pods(namespace),
                labels=_query(selector),
                fields=RUNNING_FIELDS,
                page=PODS_PAGE,
                keep=reduced_running_pod,
            )
            return found.items

        if len(selectors) > _SELECTORS:
            pods = await listed(Selector())
            nodes = {PodQuery(namespace, each): nodes_running(pods, each) for each in selectors}
        else:
            lists = await asyncio.gather(*map(listed, selectors))
            nodes = {
                PodQuery(namespace, each): nodes_running(pods, each)
                for each, pods in zip(selectors, lists, strict=True)
            }
        self._known |= {query: (began, found) for query, found in nodes.items()}
        while len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        return nodes

    async def existing(self, namespace: str, selector: Selector) -> list[Admitted]:
        """The Pods of a namespace that the selector matches, also those that have ended: one of each owner and
        combination of images, without their constraints. Raises `KubernetesError`.
        """

        def read(pod: Object) -> Object:
            found = read_existing_pod(pod, namespace)
            return {"pod": found if found is not None and selector.matches(found.labels) else None}

        async def listed() -> list[Admitted]:
            found = await self.kubernetes.list(
                paths.pods(namespace), labels=_query(selector), page=PODS_PAGE, keep=read
            )
            pods = (item["pod"] for item in found.items if item["pod"] is not None)
            return list({(pod.owner, pod.images): pod for pod in pods}.values())

        return await self._in_time("Pods", namespace, listed)

    async def workloads(self, namespace: str, selector: Selector) -> list[Workload]:
        """The workloads of a namespace that the selector matches. Raises `KubernetesError`."""

        async def listed(kind: WorkloadKind) -> list[Workload]:
            if self._absent.get((namespace, kind), 0.0) > self.clock.monotonic():
                return []

            def read(workload: Object) -> Object:
                taken = selector.matches(workload["metadata"].get("labels") or {})
                return {"workload": read_workload(kind, workload) if taken else None}

            try:
                found = await self.kubernetes.list(
                    paths.workloads(kind, namespace), labels=_query(selector), page=PODS_PAGE, keep=read
                )
            except NotServed:
                self._absent[namespace, kind] = self.clock.monotonic() + _ABSENT_SECONDS
                return []
            return [item["workload"] for item in found.items if item["workload"] is not None]

        async def all_kinds() -> list[Workload]:
            lists = await asyncio.gather(*map(listed, WORKLOAD_KINDS))
            return [workload for workloads in lists for workload in workloads]

        return await self._in_time("workloads", namespace, all_kinds)

    async def _in_time(
        self, what: What, namespace: str, reading: Callable[[], Awaitable[_Read]], seconds: float = _SECONDS
    ) -> _Read:
        """The result within some seconds. A rejection is logged when it begins.

        A namespace that did not answer is not asked again for a while: several policies and WarmImages wait for it.
        """
        late = Unavailable(f"{what} of namespace {namespace}: no answer within {seconds:g} seconds")
        if self.clock.monotonic() - self._hung.get(namespace, float("-inf")) < _FAILED_SECONDS:
            raise late
        try:
            async with asyncio.timeout(seconds):
                read = await reading()
        except TimeoutError as error:
            if seconds == _SECONDS:
                self._hung[namespace] = self.clock.monotonic()
            raise late from error
        except Gone as error:  # the pages of a list took longer than the API server remembers
            raise Unavailable(str(error)) from error
        except Refused as error:
            hint = self._hint(what, namespace) if error.status == 403 else ""
            if (namespace, what) not in self._refused:
                self._refused.add((namespace, what))
                _log.warning("pods-not-read", namespace=namespace, problem=str(error), hint=hint)
            raise Refused(f"{hint}: {error}" if hint else str(error), status=error.status) from error
        self._refused.discard((namespace, what))
        self._hung.pop(namespace, None)
        return read

    def _hint(self, what: What, namespace: str) -> str:
        """What an administrator does so that the handlers may read Pods or workloads of a namespace."""
        role = _ROLES[what]
        return (
            f"the handlers may not read {what} of this namespace, run: kubectl -n {namespace} create rolebinding {role}"
            f" --clusterrole={role} --serviceaccount={self.own_namespace}:warmhook-handlers"
        )


def _query(selector: Selector) -> str:
    """The selector for a list; empty if it is too long for a URL, since objects are matched here as well."""
    query = selector.query()
    return query if len(query) <= _QUERY_MAX else ""
