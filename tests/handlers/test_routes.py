"""A process has the groups of routes that `WARMHOOK_SERVE` names, and always those that say whether it lives."""

from __future__ import annotations

import pytest

from handlers.settings import read_settings
from tests.handlers.world import ADMISSION, World, in_world

ROUTES = {
    "webhooks": ("POST", "/webhooks/harbor"),
    "events": ("POST", "/events"),
    "admission": ("POST", ADMISSION),
    "metrics": ("GET", "/metrics"),
    "dead-letters": ("POST", "/dead-letters"),
}


@pytest.mark.parametrize(
    "served", [set(), *({group} for group in ROUTES)], ids=lambda served: "".join(served) or "none"
)
@in_world()
async def test_only_the_groups_that_are_served_answer(world: World, served: set[str]) -> None:
    world.restart(serve=frozenset(served))
    for group, (method, path) in ROUTES.items():
        answer = await world.client.request(method, path)
        assert (answer.status_code != 404) == (group in served), group
    for path in ("/healthz", "/readyz"):
        assert (await world.client.get(path)).status_code == 200


def test_everything_is_served_by_default() -> None:
    assert read_settings({}).serve >= {"webhooks", "events", "admission", "metrics"}
