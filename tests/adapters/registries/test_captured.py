"""Deliveries captured from real senders give the expected images; `WARMHOOK_TEST_PAYLOADS` names their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from adapters.registries import Delivery, Source, find_adapters
from cli.parse import Body, readers, report
from tests.adapters.registries.cases import RECEIVED, written

FOLDER = Path(os.environ.get("WARMHOOK_TEST_PAYLOADS") or "absent")
ADAPTERS = find_adapters()
LISTED = FOLDER / "EXPECTED.json"
EXPECTED: dict[str, Any] = {
    name: expected
    for name, expected in (json.loads(LISTED.read_text()) if LISTED.exists() else {}).items()
    if name.partition("/")[0] not in ("admission", "knative")  # no registries
}

pytestmark = pytest.mark.skipif(not EXPECTED, reason="WARMHOOK_TEST_PAYLOADS names no folder with EXPECTED.json")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_captured_delivery_gives_what_is_listed(name: str) -> None:
    expected = EXPECTED[name]
    body = Body((FOLDER / name).read_bytes(), headers={}, registry_host="", received=RECEIVED)

    lines = report(*readers()[name.partition("/")[0]](body))

    each = expected.get("emit_each", [expected.get("emit")])
    assert lines == ([line for emitted in each for line in emitted] or [f"skip: {expected['skip']}"])


@pytest.mark.parametrize("name", [name for name in EXPECTED if "emit_each" in EXPECTED[name]])
def test_a_captured_sequence_gives_its_images_delivery_by_delivery(name: str) -> None:
    adapter, deliveries = ADAPTERS[name.partition("/")[0]], json.loads((FOLDER / name).read_bytes())

    emitted = [
        [written(outcome) for outcome in adapter.parse(Delivery(json.dumps(one).encode(), RECEIVED), Source("x"))]
        for one in deliveries
    ]

    assert emitted == EXPECTED[name]["emit_each"]
