"""Inputs that fuzzing once found are answered."""

from __future__ import annotations

import json

import pytest

from tests.fuzz.targets import TARGETS

_CHANGED = "POST /events\nce-specversion: 1.0\nce-id: 1\nce-source: /s\nce-type: dev.warmhook.objects.changed.v1\n\n"
_REPORTED = _CHANGED.replace("objects.changed", "report.changed")
FOUND = {
    "a word that grows when it is escaped": ("adapters", b"github\nx-github-event: a" + b"\0" * 80 + b"\n\n{}"),
    "an address that ends in a slash": ("endpoints", b"POST /webhooks/harbor/\n\n{}"),
    "a namespace that leads out of the path": (
        "endpoints",
        (_CHANGED + json.dumps({"objects": [{"kind": "WarmImage", "namespace": "..", "name": "a"}]})).encode(),
    ),
    "a name that leads out of the path": (
        "endpoints",
        (_CHANGED + json.dumps({"objects": [{"kind": "Node", "name": "../configmaps/a"}]})).encode(),
    ),
    "half a surrogate pair in the name of a WarmImage": (
        "text",
        rb"line" + b"\n\n" + rb'{"i": "a", "w": "shop/\ud800"}',
    ),
    "a key that leads out of the path": ("endpoints", (_REPORTED + json.dumps({"warmimages": ["../a"]})).encode()),
}


@pytest.mark.parametrize("name", FOUND)
def test_an_input_that_was_a_finding_is_answered(name: str) -> None:
    target, data = FOUND[name]

    TARGETS[target].build()(data)


@pytest.mark.parametrize("target", TARGETS)
def test_the_inputs_that_fuzzing_begins_with_are_answered(target: str) -> None:
    run = TARGETS[target].build()

    for seed in TARGETS[target].seeds():
        run(seed)
