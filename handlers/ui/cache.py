"""Follow the cluster, and count what the page shows at most once per second however many read it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.reflector import ListWatch, reflect
from adapters.logs import get_logger
from adapters.outages import WatchOutages
from handlers.reconcile.objects import object_key
from handlers.ui.reading import read_desired_facts, read_image_facts, read_node_facts, read_report_facts
from warmhook.api import KIND_LABEL
from warmhook.delivery_records import CONFIGMAP, read_delivery_records
from warmhook.inventory import Changes, DesiredFacts, ImageFacts, Inventory, NodeFacts, ReportFacts
from warmhook.node_lines import desired_name, desired_node
from warmhook.node_report import report_name, report_node
from warmhook.overview_rows import Totals, count_all
from warmhook.ports import Object

_log = get_logger()

Kind: TypeAlias = Literal["WarmImage", "Node", "ConfigMap", "Deliveries"]
_NEEDED: Final[frozenset[Kind]] = frozenset({"WarmImage", "Node", "ConfigMap"})
COUNTED_SECONDS: Final = 1.0
"""For so long counts are used again, and for longer where counting takes long: nothing else runs meanwhile."""
_COUNTING_SHARE: Final = 0.2
_LOOK_SECONDS: Final = 5.0
"""How often nodes are looked at that have become silent while nobody reads."""
_AGAIN_SECONDS: Final = 10.0
"""Before the cluster is followed again after a mistake."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts of all images at one moment."""

    totals: Totals
    changes: Changes
    """Those that are counted."""
    at: float
    """On the monotonic clock."""
    time: datetime
    seconds: float
    """How long counting took."""


@dataclass(frozen=True, slots=True)
class Staleness:
    """How old something is that the page knows."""

    seconds: float
    """Since it could be read; 0 if it can be."""
    refusal: str
    """Why the API server lets the page not read it; empty if it does not answer."""


class ClusterCache:
    """What the page knows of the cluster."""

    def __init__(self, namespace: str, clock: Clock, pool_label: str = "") -> None:
        """`namespace` is that of the ConfigMaps of nodes; `pool_label` as for `read_node_facts`."""
        self.inventory = Inventory()
        self._namespace, self._clock, self._pool_label = namespace, clock, pool_label
        self._outages, self._delivery_outages = WatchOutages(clock.monotonic), WatchOutages(clock.monotonic)
        self.listed = asyncio.Event()
        """Set as long as everything was listed; deliveries are not needed."""
        self._listed: set[Kind] = set()
        self._started = clock.monotonic()
        self._counted: Counted | None = None

    async def run(self, kubernetes: Kubernetes) -> None:
        """Follow the cluster until this is cancelled."""
        configmaps = paths.configmaps(self._namespace)
        needed: list[ListWatch[Kind]] = [
            ListWatch("WarmImage", paths.warmimages(), keep=_image),
            ListWatch("Node", paths.NODES, keep_metadata=self._node),
            ListWatch("ConfigMap", configmaps, f"{KIND_LABEL} in (desired,report)", keep_metadata=_configmap),
        ]
        more: ListWatch[Kind] = ListWatch(
            "Deliveries", configmaps, fields=f"metadata.name={CONFIGMAP}", keep=_deliveries
        )
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(reflect(kubernetes, needed, self, self._clock, self._outages), name="follow")
                    # By itself: without deliveries the rest is not old.
                    deliveries = reflect(kubernetes, [more], self, self._clock, self._delivery_outages)
                    group.create_task(deliveries, name="follow deliveries")
            except Exception:
                # The page is optional: no mistake here may end the rest of `web`.
                _log.exception("ui-failed")
                self._listed.clear()
                self.listed.clear()
            await self._clock.sleep(_AGAIN_SECONDS)

    async def look(self) -> None:
        """Count regularly until this is cancelled: silence is no change of an object."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            try:
                self.counted()
            except Exception:
                _log.exception("ui-failed")

    @property
    def staleness(self) -> Staleness:
        """How old everything but deliveries is."""
        return self._staleness(self._outages, is_listed=self.listed.is_set())

    @property
    def staleness_of_deliveries(self) -> Staleness:
        """How old deliveries are."""
        return self._staleness(self._delivery_outages, is_listed="Deliveries" in self._listed)

    def _staleness(self, outages: WatchOutages, *, is_listed: bool) -> Staleness:
        seconds = outages.seconds if is_listed else self._clock.monotonic() - self._started
        return Staleness(seconds, outages.refusal)

    def counted(self) -> Counted:
        """The counts: a second old at most if something has changed, or as old as `COUNTED_SECONDS` says."""
        now, counted, inventory = self._clock.monotonic(), self._counted, self.inventory
        if counted is not None and now - counted.at < max(COUNTED_SECONDS, counted.seconds / _COUNTING_SHARE):
            return counted
        time = self._clock.utcnow()
        inventory.note_time(time)
        changes = inventory.changes()
        if counted is not None and counted.changes == changes:
            counted = replace(counted, at=now, time=time)
        else:
            totals = count_all(inventory)
            counted = Counted(totals, changes, now, time, self._clock.monotonic() - now)
        self._counted = counted
        return counted

    # --- what the reflectors see ---

    def replace(self, kind: Kind, objects: list[Object]) -> None:
        """Replace all objects of a kind by those of a list."""
        for name in self._known(kind).difference(obj["key"] for obj in objects):
            self._drop(kind, name)
        for obj in objects:
            self.update(kind, obj)
        if kind == "Deliveries" and not objects:
            self.inventory.set_deliveries(None)
        self._listed.add(kind)
        if self._listed >= _NEEDED:
            self.listed.set()

    def update(self, kind: Kind, obj: Object) -> None:  # noqa: ARG002 - what was kept says which kind it is
        """Take an object that was added or modified, reduced."""
        inventory, facts = self.inventory, obj["facts"]
        match facts:
            case ImageFacts():
                inventory.set_image(facts)
            case NodeFacts():
                inventory.set_node(facts)
            case DesiredFacts():
                shared = DesiredFacts(inventory.share(facts.lines), inventory.share(facts.refused))
                inventory.set_desired(obj["node"], shared)
            case ReportFacts():
                shared_report = ReportFacts(facts.seen, inventory.share(facts.warm), inventory.share(facts.states))
                inventory.set_report(obj["node"], shared_report)
            case tuple():
                inventory.set_deliveries(facts)

    def delete(self, kind: Kind, obj: Object) -> None:
        """Drop an object that was deleted; it is not reduced."""
        self._drop(kind, object_key(obj) if kind == "WarmImage" else obj["metadata"]["name"])

    def _known(self, kind: Kind) -> set[Any]:
        inventory = self.inventory
        match kind:
            case "WarmImage":
                return set(inventory.images)
            case "Node":
                return set(inventory.nodes)
            case "ConfigMap":
                return {*map(desired_name, inventory.desired), *map(report_name, inventory.reports)}
            case "Deliveries":
                return set()

    def _drop(self, kind: Kind, key: Any) -> None:
        inventory = self.inventory
        if kind == "WarmImage":
            inventory.drop_image(key)
        elif kind == "Node":
            inventory.drop_node(key)
        elif kind == "Deliveries":
            inventory.set_deliveries(None)
        elif node := desired_node(key):
            inventory.set_desired(node, None)
        elif node := report_node(key):
            inventory.set_report(node, None)

    def _node(self, obj: Object) -> Object:
        facts = read_node_facts(obj["metadata"], self._pool_label)
        return _reduced(facts.name, facts)


def _image(obj: Object) -> Object:
    facts = read_image_facts(obj)
    return _reduced(facts.key, facts)


def _configmap(obj: Object) -> Object:
    metadata = obj["metadata"]
    node, desired = read_desired_facts(metadata)
    if node:
        return {**_reduced(metadata["name"], desired), "node": node}
    node, report = read_report_facts(metadata)
    # An object with these labels and the name of neither is a copy that somebody made.
    return {**_reduced(metadata["name"], report if node else None), "node": node}


def _deliveries(obj: Object) -> Object:
    return _reduced(CONFIGMAP, tuple(read_delivery_records(obj.get("data") or {})))


def _reduced(key: object, facts: object) -> Object:
    return {"key": key, "facts": facts}
