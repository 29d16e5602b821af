"""Every request is answered as documented, whoever sends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.endpoints import ask, build_app
from tests.fuzz.mutating import mutate
from tests.fuzz.targets import TARGETS, read_request

FAST = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
SEEDS = TARGETS["endpoints"].seeds()
PATHS = [
    "/webhooks/harbor",
    "/webhooks/guarded?token=x",
    "/webhooks/",
    "/events",
    "/admission/pods/token",
    "/healthz",
    "/",
]
METHODS = ["POST", "GET", "OPTIONS", "PUT", "HEAD", "TRACE", "x"]
LATIN = st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as one, structlog.testing.capture_logs():
        yield one


@pytest.fixture(scope="module")
def app() -> Any:
    return build_app()


@pytest.mark.slow
@given(
    method=st.sampled_from(METHODS) | LATIN,
    path=st.sampled_from(PATHS) | LATIN.map(lambda text: f"/{text}"),
    headers=st.dictionaries(st.sampled_from(["content-type", "ce-type", "ce-id", "authorization"]) | LATIN, LATIN),
    body=st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()),
)
@FAST
def test_any_request_is_answered(
    runner: asyncio.Runner, app: Any, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    runner.run(ask(app, method, path, {name.lower(): text for name, text in headers.items()}, body))


@given(seed=st.sampled_from(SEEDS), changes=st.integers(1, 4), chance=st.integers(0, 2**32))
@FAST
def test_a_delivery_with_a_few_changes_is_answered(
    runner: asyncio.Runner, app: Any, seed: bytes, changes: int, chance: int
) -> None:
    rng = Random(chance)
    for _ in range(changes):
        seed = mutate(seed, 20_000, rng, lambda data, _size: data[: rng.randrange(len(data) + 1)])
    first, headers, body = read_request(seed)
    method, _, path = first.partition(" ")

    runner.run(ask(app, method, path, headers, body))
