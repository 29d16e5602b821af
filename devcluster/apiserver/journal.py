"""Keep a cluster in a file over restarts: each change is one line, written before the answer is sent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.apiserver.core import ApiServer
from devcluster.apiserver.store import Change, Key, Store
from warmhook.ports import Object


def _read(path: Path) -> tuple[int, dict[tuple[str, Key], Object]]:
    """The newest version in a journal and the objects it leaves; a last line cut short by a kill does not count."""
    version = 0
    objects: dict[tuple[str, Key], Object] = {}
    if not path.exists():
        return version, objects
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            entry = json.loads(line)
            version = max(version, entry["version"])
            where = (entry["table"], (entry["namespace"], entry["name"]))
            if entry["object"] is None:
                objects.pop(where, None)
            else:
                objects[where] = entry["object"]
    return version, objects


def _line(version: int, table: str, key: Key, obj: Object | None) -> bytes:
    entry = {"version": version, "table": table, "namespace": key[0], "name": key[1], "object": obj}
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _rewrite(path: Path, store: Store) -> None:
    """Replace the journal by one line per object, and one that keeps the version."""
    scratch = path.with_name(path.name + ".new")
    with scratch.open("wb") as file:
        file.write(_line(store.version, "", ("", ""), None))
        for name, table in store.tables.items():
            for key, stored in table.items.items():
                file.write(_line(stored.version, name, key, stored.object))
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


@contextmanager
def persisted(server: ApiServer, path: Path) -> Iterator[None]:
    """Load the cluster from `path` if it exists and write every change there; resourceVersions go on from there.

    Safe against the death of the process, not of the machine. History is not kept: watches that were open before
    expire with 410 unless nothing was written since, as after a restart of the real server.
    """
    version, objects = _read(path)
    if version:
        server.restore(version, [(table, key, obj) for (table, key), obj in objects.items()])
    _rewrite(path, server.store)
    with path.open("ab", buffering=0) as file:

        def write(table: str, change: Change) -> None:
            obj = change.new.object if change.new is not None else None
            file.write(_line(change.version, table, change.key, obj))

        server.store.journal = write
        try:
            yield
        finally:
            server.store.journal = None
