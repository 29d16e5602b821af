"""What a version of Warmhook wrote means the same to every later one.

`frozen/<version>/` has what the programs of that version wrote for each other, and what they understood. Nobody changes
the folder of a version that was released. WARMHOOK_TEST_RECORD=1 writes that of the present one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from tests.skew.samples import KINDS
from warmhook import __version__

_FROZEN: Final = Path(__file__).parent / "frozen"
_RECORD: Final = os.environ.get("WARMHOOK_TEST_RECORD") == "1"
PRESENT: Final = ".".join(__version__.split(".")[:2])
VERSIONS: Final = sorted({PRESENT, *(path.name for path in _FROZEN.glob("*"))})
_CRDS: Final = {"warmimages": warmimage_crd, "warmpolicies": warmpolicy_crd}


def frozen(version: str, kind: str) -> list[Any]:
    """Pairs of what was written and what it meant."""
    pairs: list[Any] = json.loads((_FROZEN / version / f"{kind}.json").read_text(encoding="utf-8"))
    return pairs


def missing(told: Any, now: Any, path: str = "") -> list[str]:
    """What was understood then and is understood otherwise now; what is understood on top does not count."""
    if isinstance(told, dict) and isinstance(now, dict):
        return [line for key, part in told.items() for line in missing(part, now.get(key), f"{path}.{key}")]
    if isinstance(told, list) and isinstance(now, list) and len(told) == len(now):
        return [line for at, pair in enumerate(zip(told, now, strict=True)) for line in missing(*pair, f"{path}[{at}]")]
    return [] if told == now else [f"{path}: {told!r} is now {now!r}"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_programs_write_is_what_was_frozen_for_this_version(kind: str) -> None:
    path, samples = _FROZEN / PRESENT / f"{kind}.json", KINDS[kind].write()
    if _RECORD:
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs = [{"written": sample, "means": KINDS[kind].read(sample)} for sample in samples]
        path.write_text(json.dumps(pairs, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert [pair["written"] for pair in frozen(PRESENT, kind)] == json.loads(json.dumps(samples))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_version_wrote_means_today_what_it_meant_then(version: str, kind: str) -> None:
    with structlog.testing.capture_logs() as logs:
        for number, pair in enumerate(frozen(version, kind)):
            assert missing(pair["means"], json.loads(json.dumps(KINDS[kind].read(pair["written"])))) == [], number
    assert logs == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_of_today_have_every_field_that_a_version_wrote(version: str) -> None:
    for kind, crd in _CRDS.items():
        schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for pair in frozen(version, kind):
            for part in ("spec", "status"):
                if part in pair["written"]:
                    assert unknown(pair["written"][part], schema["properties"][part]) == []


def unknown(value: Any, schema: Any, path: str = "") -> list[str]:
    """Fields without a schema, which an API server would drop, and values that are not allowed any more."""
    if isinstance(value, list):
        return [line for item in value for line in unknown(item, schema["items"], f"{path}[]")]
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        return [
            line
            for key, part in value.items()
            for line in (
                unknown(part, properties.get(key) or more, f"{path}.{key}")
                if key in properties or more
                else [f"{path}.{key}"]
            )
        ]
    return [f"{path}: {value!r}"] if "enum" in schema and value not in schema["enum"] else []


def test_a_difference_is_noticed() -> None:
    assert missing({"a": [1, {"b": "x"}]}, {"a": [1, {"b": "x", "c": 2}], "d": 3}) == []
    assert missing({"a": [1]}, {"a": [1, 2]}) == [".a: [1] is now [1, 2]"]
    assert missing({"a": 1}, {}) == [".a: 1 is now None"]
    schema = {
        "properties": {"a": {"enum": ["x"]}, "b": {"additionalProperties": {"type": "integer"}}, "c": {"items": {}}}
    }
    assert unknown({"a": "x", "b": {"any": 1}, "c": [1]}, schema) == []
    assert unknown({"a": "y", "d": 1}, schema) == [".a: 'y'", ".d"]
