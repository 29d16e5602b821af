"""Record on disk which images this agent brought to its node and which lines named them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.logs import Log
from nodeagent.json_file import JsonFile
from warmhook.removals import LINES_MAX, RECORDS_MAX, Brought, Records


class RecordFile:
    """`removals.json` of one node. An image without a record is never removed."""

    def __init__(self, folder: Path, node: str, log: Log) -> None:
        self._file = JsonFile(folder / "removals.json", node, log)

    def load(self) -> Records:
        """The last saved records; none if there is no usable file."""
        return self._file.load(_parse, {})

    def save(self, records: Records) -> None:
        """Write the records. Raises `OSError`."""
        # A list keeps the order, in which the oldest records come first.
        images = [
            {"id": image_id, "names": sorted(record.names), "lines": dict(record.lines)}
            for image_id, record in records.items()
        ]
        self._file.save({"images": images})


def _parse(fields: Mapping[str, Any]) -> Records:
    images = fields["images"]
    if not isinstance(images, list) or len(images) > RECORDS_MAX:
        raise ValueError(f"images is no list of {RECORDS_MAX} records at most")
    records = {_text(image["id"]): _record(image) for image in images}
    if len(records) < len(images):
        raise ValueError("two records of one image")
    return records


def _record(image: Mapping[str, Any]) -> Brought:
    names, lines = image["names"], image["lines"]
    if not isinstance(names, list) or len(lines) > LINES_MAX:
        raise ValueError(f"names is no list, or there are more than {LINES_MAX} lines")
    # Anything but "Delete" retains.
    said = {_text(key): "Delete" if text == "Delete" else "Retain" for key, text in lines.items()}
    return Brought(frozenset(map(_text, names)), said)  # type: ignore[arg-type]  # mypy widens the literals


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("an ID, a name or a key is no text")
    return value
