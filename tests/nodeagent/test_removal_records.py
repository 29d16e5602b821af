"""The records of what the agent brought are whole or not there, and never more than an agent writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from nodeagent.removal_records import RecordFile
from warmhook.removals import LINES_MAX, RECORDS_MAX, Brought, Records

RECORDS: Records = {
    "sha256:2": Brought(frozenset({"registry.example.com/shop/web:1"}), {"0" * 16: "Delete", "1" * 16: "Retain"}),
    "sha256:1": Brought(frozenset(), {"2" * 16: "Delete"}),
}


def record_file(folder: Path, node: str = "node-1") -> RecordFile:
    return RecordFile(folder, node, structlog.get_logger())


def content(*images: Any, **others: Any) -> bytes:
    return json.dumps({"format": 1, "node": "node-1", "images": list(images), **others}).encode()


def image(**fields: Any) -> dict[str, Any]:
    return {"id": "sha256:1", "names": ["a"], "lines": {"0" * 16: "Delete"}, **fields}


def test_saved_records_are_loaded_in_their_order(tmp_path: Path) -> None:
    record_file(tmp_path / "new").save(RECORDS)
    loaded = record_file(tmp_path / "new").load()
    assert loaded == RECORDS
    assert list(loaded) == list(RECORDS)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["removals.json"]


def test_what_a_line_said_is_retain_unless_it_is_exactly_delete(tmp_path: Path) -> None:
    (tmp_path / "removals.json").write_bytes(content(image(lines={"a": "delete", "b": None, "c": "Delete"})))
    assert record_file(tmp_path).load()["sha256:1"].lines == {"a": "Retain", "b": "Retain", "c": "Delete"}


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        content(node="node-2"),
        content(format=2),
        content(images={}),
        content(images=None),
        content(1),
        content(image(id="")),
        content(image(id=1)),
        content(image(names="a")),
        content(image(names=[1])),
        content(image(lines=["a"])),
        content(image(lines={str(number): "Delete" for number in range(LINES_MAX + 1)})),
        content(image(), image()),
        content(*(image(id=str(number)) for number in range(RECORDS_MAX + 1))),
    ],
    ids=range(16),
)
def test_an_unusable_file_is_set_aside_and_nothing_is_known(tmp_path: Path, hostile: bytes) -> None:
    (tmp_path / "removals.json").write_bytes(hostile)
    assert record_file(tmp_path).load() == {}
    assert (tmp_path / "removals.unusable").read_bytes() == hostile


def test_a_failed_save_leaves_the_last_records(tmp_path: Path) -> None:
    record_file(tmp_path).save(RECORDS)
    (tmp_path / "removals.tmp").mkdir()
    with pytest.raises(OSError, match="removals"):
        record_file(tmp_path).save({})
    assert record_file(tmp_path).load() == RECORDS
