"""What a report says about peers costs no write at rest, and never keeps the rest of the report from being written."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from adapters.kubernetes.paths import configmaps
from tests.support.agents import NAMESPACE, Bench, on_node, push_warm
from tests.support.instant import until
from warmhook import __version__
from warmhook.api import PEER_ANNOTATION, TRANSFERS_ANNOTATION, VERSION_ANNOTATION
from warmhook.node_report import report_name
from warmhook.peers import PeerReport, Transfer
from warmhook.ports import Response

KEY = "k" * 43
ADDRESS = "10.0.0.5:9465"


def stored_annotations(b: Bench) -> dict[str, str]:
    stored: dict[str, Any] = b.stored_report() or {"metadata": {}}
    found: dict[str, str] = stored["metadata"].get("annotations") or {}
    return found


@on_node
async def test_a_report_names_the_place_at_which_a_node_serves_until_it_does_no_longer(b: Bench) -> None:
    async with b.agent() as agent:
        await push_warm(b)
        agent.peers.serving(ADDRESS, KEY)
        agent.reports_changed()
        await until(lambda: b.report().peer == PeerReport(ADDRESS, KEY), seconds=3)
        agent.peers.not_serving()
        agent.reports_changed()
        await until(lambda: PEER_ANNOTATION not in stored_annotations(b), seconds=3)


@on_node
async def test_a_new_agent_that_does_not_serve_removes_the_place_of_the_one_before(b: Bench) -> None:
    async with b.agent() as agent:
        agent.peers.serving(ADDRESS, KEY)
        await push_warm(b)
        assert b.report().peer is not None
    async with b.agent():
        await until(lambda: b.report().peer is None, seconds=5)


@on_node
async def test_a_changed_rate_causes_no_write_of_its_own(b: Bench) -> None:
    async with b.agent() as agent:
        agent.peers.serving(ADDRESS, KEY)
        await push_warm(b)
        await asyncio.sleep(10)
        writes = len(b.writes())
        agent.peers.received(5e6)
        agent.peers.read_registry("registry.example.com", 10e6)
        agent.reports_changed()
        await asyncio.sleep(60)
        assert len(b.writes()) == writes
        await until(lambda: len(b.writes()) > writes, seconds=240)
        assert b.report().peer == PeerReport(ADDRESS, KEY, 5_000_000, {"registry.example.com": 10_000_000})


@on_node
async def test_progress_is_written_after_five_seconds_and_then_ever_less_often(b: Bench) -> None:
    async with b.agent() as agent:
        await push_warm(b)
        await asyncio.sleep(10)
        began = asyncio.get_running_loop().time()
        for second in range(200):
            agent.peers.transferred(Transfer("0123abcd", peer_kib=second + 1), ended=False)
            agent.reports_changed()
            await asyncio.sleep(1)
        progress = [round(at - began) for at in b.writes() if at > began]
        assert progress[:5] == [5, 15, 35, 75, 155]
        assert b.report().transfers["0123abcd"].peer_kib > 150
        agent.peers.transferred(Transfer("0123abcd", 300, 1, 200_000, 50, 2), ended=True)
        await asyncio.sleep(3000)
        assert b.report().transfers["0123abcd"] == Transfer("0123abcd", 300, 1, 200_000, 50, 2)
        await asyncio.sleep(1200)
        assert TRANSFERS_ANNOTATION not in stored_annotations(b)
        assert len(b.writes()) < 40


@on_node
async def test_a_transfer_that_stands_still_causes_no_write(b: Bench) -> None:
    async with b.agent() as agent:
        await push_warm(b)
        await asyncio.sleep(10)
        agent.peers.transferred(Transfer("0123abcd", 1), ended=False)
        agent.reports_changed()
        await until(lambda: TRANSFERS_ANNOTATION in stored_annotations(b), seconds=6)
        writes = len(b.writes())
        await asyncio.sleep(100)
        assert len(b.writes()) == writes


@on_node
async def test_a_policy_that_refuses_what_it_does_not_know_keeps_only_that_out_of_the_report(b: Bench) -> None:
    path = configmaps(NAMESPACE, report_name(b.node))
    async with b.agent() as agent:
        await push_warm(b)
        agent.peers.serving(ADDRESS, KEY)
        status = {"kind": "Status", "message": "unknown annotation", "reason": "Invalid", "code": 422}
        b.answers[("PATCH", path)] = Response(422, {}, json.dumps(status).encode())
        agent.reports_changed()
        await until(lambda: len(b.events("report-refused")) == 1)
        await asyncio.sleep(30)
        del b.answers[("PATCH", path)]
        line = await push_warm(b, content="second")
        assert b.state(line) == "warm"
        assert (b.report().peer, b.report().agent) == (None, "")
        await asyncio.sleep(4000)
        assert (b.report().peer, b.report().agent) == (PeerReport(ADDRESS, KEY), __version__)


@on_node
async def test_a_report_has_the_version_of_the_agent_in_a_write_that_is_made_anyway(b: Bench) -> None:
    async with b.agent():
        await push_warm(b)
        assert b.report().agent == __version__
    path = configmaps(NAMESPACE, report_name(b.node))
    await b.kubernetes.patch(path, {"metadata": {"annotations": {VERSION_ANNOTATION: "0.0.9"}}})
    assert b.report().agent == "0.0.9"
    writes = len(b.writes())
    async with b.agent():
        await until(lambda: b.report().agent == __version__, seconds=10)
        assert len(b.writes()) <= writes + 2
