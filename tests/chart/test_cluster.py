"""A real API server accepts what the chart makes of a matrix of values."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from adapters.kubernetes.transport import open_transport
from tests.chart.helm import template
from tests.chart.test_rendering import FOREIGN, MATRIX
from tests.manifests.installation import Installation, path_of
from warmhook.ports import Object

pytestmark = pytest.mark.cluster

# Operators bring these kinds; every API server has the kinds of flow control.
ABSENT = (*(group for group in FOREIGN if not group.startswith("flowcontrol")), "serving", "eventing", "sources")


async def try_each(kubeconfig: str, folder: Path, objects: list[Object]) -> list[tuple[str, str]]:
    """Apply each object strictly and without storing it; what the API server says to those that it refuses."""
    refused = []
    async with open_transport(kubeconfig) as transport:
        installation = Installation(Path(kubeconfig), transport, folder)
        try:
            for namespace in (installation.system, installation.agents):
                await installation.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            query = {"fieldManager": "warmhook-test", "fieldValidation": "Strict", "force": "true", "dryRun": "All"}
            for obj in installation.objects(objects):
                path = path_of(obj)
                answer = await installation.send("PATCH", path, query, "application/apply-patch+yaml", obj)
                if answer.status not in (200, 201):
                    refused.append((path, answer.body.decode()))
        finally:
            await installation.clear()
    return refused


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_object_passes_the_dry_run(values: Object, tmp_path: Path) -> None:
    kubeconfig = os.environ.get("WARMHOOK_TEST_KUBECONFIG", "")
    if not kubeconfig:
        pytest.skip("WARMHOOK_TEST_KUBECONFIG names no cluster")
    ours = [
        obj for obj in template(values) if obj["metadata"].get("namespace") != "shop" and obj["kind"] != "Namespace"
    ]
    known = [obj for obj in ours if not obj["apiVersion"].startswith(ABSENT)]
    assert len(known) > 20
    assert asyncio.run(try_each(kubeconfig, tmp_path, known)) == []
