"""Each broken situation names its culprit, and a command that mends it."""

from __future__ import annotations

import pytest

from tests.explain.scene import Scene, in_scene


def test_a_healthy_image_has_no_wrong_check() -> None:
    async def case(scene: Scene) -> None:
        await scene.warm()
        found = await scene.explain()
        for check in found.checks:
            print(check)
        assert found.warm

    in_scene(case)
