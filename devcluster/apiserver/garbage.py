"""Run the controllers: collect garbage, empty namespaces that are deleted, remove taints of nodes that are ready."""

from __future__ import annotations

from devcluster.apiserver.paths import Target
from devcluster.apiserver.resources import Registry
from devcluster.apiserver.store import Store
from devcluster.apiserver.views import json_path
from devcluster.apiserver.writes import Writes

_NOT_READY = "node.kubernetes.io/not-ready"


class Collector:
    """The controllers that Warmhook relies on; each pass looks at everything that may have changed."""

    def __init__(self, store: Store, registry: Registry, writes: Writes, *, garbage: bool = True) -> None:
        """Without `garbage`, dependents of deleted owners stay, as in a cluster without a garbage collector."""
        self._garbage = garbage
        self._store = store
        self._registry = registry
        self._writes = writes
        self._done = -1

    def collect(self) -> int:
        """Clean up until nothing is left to do; returns the number of objects deleted or changed."""
        total = 0
        while self._store.version != self._done:
            version = self._store.version
            total += (self._orphans() if self._garbage else 0) + self._namespaces() + self._taints()
            if self._store.version == version:
                self._done = version
        return total

    def _orphans(self) -> int:
        """Delete what has owners none of which exists any more; owners are compared by uid."""
        uids: dict[str, str] = {}
        for table in self._store.tables.values():
            for (namespace, _), stored in table.items.items():
                uids[stored.object["metadata"]["uid"]] = namespace
        deleted = 0
        for resource in list(self._registry):
            for key, stored in list(self._store.table(resource.table).items.items()):
                owners = stored.object["metadata"].get("ownerReferences")
                if not owners or "deletionTimestamp" in stored.object["metadata"]:
                    continue
                # An owner is cluster-scoped or lives in the dependent's own namespace.
                if any(uids.get(owner.get("uid", ""), "\0") in ("", key[0]) for owner in owners):
                    continue
                if self._store.table(resource.table).items.get(key) is stored:
                    self._writes.delete_stored(Target(resource, key[0] or None, key[1]), stored)
                    deleted += 1
        return deleted

    def _namespaces(self) -> int:
        dying = {
            name
            for (_, name), stored in self._store.table("namespaces").items.items()
            if "deletionTimestamp" in stored.object["metadata"]
        }
        if not dying:
            return 0
        deleted = 0
        held: set[str] = set()
        for resource in list(self._registry):
            if not resource.namespaced:
                continue
            table = self._store.table(resource.table)
            for key in [key for key in table.items if key[0] in dying]:
                stored = table.items[key]
                if "deletionTimestamp" not in stored.object["metadata"]:
                    self._writes.delete_stored(Target(resource, *key), stored)
                    deleted += 1
                if key in table.items:
                    held.add(key[0])
        for name in dying - held:
            self._store.remove("namespaces", ("", name))
            deleted += 1
        return deleted

    def _taints(self) -> int:
        """Take the not-ready taint, which every new node gets, off nodes that report Ready."""
        changed = 0
        for key, stored in list(self._store.table("nodes").items.items()):
            obj = stored.object
            taints = obj.get("spec", {}).get("taints") or []
            rest = [taint for taint in taints if taint.get("key") != _NOT_READY]
            if len(rest) == len(taints) or json_path(obj, '.status.conditions[?(@.type=="Ready")].status') != "True":
                continue
            spec = {name: value for name, value in obj["spec"].items() if name != "taints"}
            self._store.put("nodes", key, {**obj, "spec": {**spec, "taints": rest} if rest else spec})
            changed += 1
        return changed
