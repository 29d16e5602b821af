"""Keep one JSON object of a node on disk: whole or absent, never half-written."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from adapters.logs import Log

_FORMAT: Final = 1
# Far above what an agent writes; a larger file is not ours.
_MOST_BYTES: Final = 16 * 1024 * 1024
_Content = TypeVar("_Content")


class JsonFile:
    """A file in the state folder of one node."""

    def __init__(self, path: Path, node: str, log: Log) -> None:
        self._path, self._node, self._log = path, node, log
        self._saving = threading.Lock()

    def load(self, parse: Callable[[Mapping[str, Any]], _Content], empty: _Content) -> _Content:
        """What `parse` reads from the saved fields; `empty` if there is no file. An unusable file is renamed.

        `parse` raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` for fields that it cannot use.
        """
        try:
            with self._path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return empty
        except OSError as error:
            self._log.warning("state-not-read", path=str(self._path), error=str(error))
            return empty
        try:
            return parse(self._fields(content))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            aside = self._path.with_suffix(".unusable")
            with contextlib.suppress(OSError):
                os.replace(self._path, aside)
            self._log.warning("state-set-aside", path=str(aside), error=str(error)[:200])
            return empty

    def save(self, fields: Mapping[str, object]) -> None:
        """Write the fields to the disk before the old ones are replaced. Raises `OSError`.

        A thread cannot be cancelled, so the last save may start before the previous one has ended.
        """
        with self._saving:
            self._save({"format": _FORMAT, "node": self._node, **fields})

    def _save(self, content: Mapping[str, object]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".tmp")
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(content, file, sort_keys=True, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _fields(self, content: bytes) -> Mapping[str, Any]:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        fields: dict[str, Any] = json.loads(content)
        if fields["format"] != _FORMAT:
            raise ValueError(f"format {fields['format']!r}, this agent writes {_FORMAT}")
        if fields["node"] != self._node:
            raise ValueError(f"of node {fields['node']!r}, this is {self._node!r}")
        return fields
