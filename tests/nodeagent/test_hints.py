"""An agent reads the hints of its lines, and whatever is in them takes no line from it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from tests.support.agents import EPOCH, WEB, Bench, a_push, line_of, on_node, push, warm, with_agent
from tests.support.instant import until
from tests.support.runtime import digest_of
from warmhook.hints import Child, Hint, Peer, encode_hint, hint_key
from warmhook.node_lines import node_patch

KEY = "k" * 43
PARENT = Peer("node-2", "10.0.0.2:9465", KEY)
AT_START = int(EPOCH.timestamp())


def hint(**fields: object) -> Hint:
    return replace(Hint(AT_START + 600), **fields)  # type: ignore[arg-type]


@on_node
async def test_a_hint_belongs_to_its_line_also_after_a_restart_until_it_expires(b: Bench) -> None:
    line = line_of(WEB, digest=digest_of("web"))
    await b.hint(line, hint(parents=(PARENT,), children=(Child("node-3", KEY),)))
    for _ in range(2):
        async with b.agent() as agent:
            await until(lambda agent=agent: agent.hints.of_line(line.key) is not None)  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
            found = agent.hints.of_image(WEB)
            assert found is not None
            assert (found.digest, found.hint.parents) == (line.digest, (PARENT,))
            b.down = True
    async with b.agent() as agent:
        assert agent.hints.of_image(WEB) == found
        await asyncio.sleep(600)
        assert [agent.hints.of_image(WEB), agent.hints.of_line(line.key)] == [None, None]
        assert agent.hints.next_expiry() is None


@with_agent
async def test_a_hint_without_its_line_and_a_line_without_its_hint_are_ordinary(b: Bench) -> None:
    line = await push(b)
    uid = await b.node_uid()
    await b.patch_desired(node_patch(b.node, uid, {}) | {"data": {"0123456789abcdef.hint": encode_hint(hint())}})
    await warm(b, line)
    assert b.events("malformed-line") == []
    assert set(b.report().states) == set()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"e":"soon"}', json.dumps({"e": AT_START + 600, "d": digest_of("other")}), "x" * 20_000]
)
@with_agent
async def test_a_malformed_hint_costs_its_line_nothing_and_is_logged_once(b: Bench, text: str) -> None:
    line = a_push(b)
    await b.hint(line, text)
    assert await warm(b, line) < 3
    other = await push(b, "registry.example.com/shop/other:1")
    await warm(b, other)
    assert [event["key"] for event in b.events("malformed-line")] == [hint_key(line.key)]


@with_agent
async def test_a_hint_that_goes_costs_no_read_and_takes_no_line_away(b: Bench) -> None:
    line = a_push(b)
    await b.hint(line, hint())
    await warm(b, line)
    reads = [request for request in b.requests if request[1] == "GET"]
    uid = await b.node_uid()
    await b.patch_desired(node_patch(b.node, uid, {}) | {"data": {hint_key(line.key): None}})
    await asyncio.sleep(30)
    assert [request for request in b.requests if request[1] == "GET"] == reads
    assert b.state(line) == "warm"


@with_agent
async def test_a_node_waits_for_its_turn_at_the_registry_and_says_so(b: Bench) -> None:
    line, other = a_push(b), a_push(b, "registry.example.com/shop/other:1")
    await b.hint(line, hint(wait_seconds=40))
    await b.want(other)
    assert await warm(b, other) < 3
    await until(lambda: "other nodes read the registry first" in b.detail(line))
    assert await warm(b, line) > 20
    assert b.runtime.pulls == [other.image, WEB]


@with_agent
async def test_a_turn_ends_with_the_hint_and_a_line_without_one_waits_for_none(b: Bench) -> None:
    line = a_push(b)
    await b.hint(line, replace(hint(wait_seconds=300), expires_at=AT_START + 20))
    assert 15 < await warm(b, line) < 90
    second = replace(line, pull=replace(line.pull, priority=3))
    await b.hint(second, hint(wait_seconds=300))
    b.runtime.lose(WEB)
    alone = line_of(WEB, name="alone", digest=line.digest)
    await b.want(alone)
    assert await warm(b, alone) < 90


@with_agent
async def test_the_first_valid_hint_by_key_serves_all_lines_of_an_image(b: Bench) -> None:
    lines = sorted((line_of(WEB, name=f"n{i}", digest=digest_of("web")) for i in range(3)), key=lambda line: line.key)
    for seeds, line in enumerate(lines):
        await b.hint(line, hint(seeds=seeds + 1, parents=(PARENT,)))
    async with b.agent() as agent:
        await until(lambda: agent.hints.of_line(lines[2].key) is not None)
        found = agent.hints.of_image(WEB)
        assert found is not None
        assert found.key == lines[0].key
        await b.hint(lines[0], "{")
        await until(lambda: agent.hints.of_line(lines[0].key) is None)
        found = agent.hints.of_image(WEB)
        assert found is not None
        assert found.key == lines[1].key
