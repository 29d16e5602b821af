"""A process has the groups of routes that `WARMHOOK_SERVE` names, and always those that say whether it lives."""

from __future__ import annotations

import pytest

from adapters.env import BadSetting
from handlers.settings import UiSettings, read_settings
from tests.handlers.world import ADMISSION, World, in_world

ROUTES = {
    "webhooks": ("POST", "/webhooks/harbor"),
    "events": ("POST", "/events"),
    "admission": ("POST", ADMISSION),
    "metrics": ("GET", "/metrics"),
    "dead-letters": ("POST", "/dead-letters"),
    "ui": ("GET", "/ui/sign-in"),
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
    assert "ui" not in read_settings({}).serve


@in_world()
async def test_the_page_without_tokens_is_not_on_the_port_of_the_others(world: World) -> None:
    world.restart(serve=frozenset({"ui", "metrics"}), ui=UiSettings(access="loopback"))
    assert (await world.client.get("/ui/")).status_code == 404
    assert (await world.client.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [("WARMHOOK_UI_ACCESS", "open"), ("WARMHOOK_UI_PORT", "0"), ("WARMHOOK_UI_STREAMS", "many")],
)
def test_a_setting_of_the_page_that_cannot_be_meant_is_named(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        read_settings({name: value})
