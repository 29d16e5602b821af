"""Count what one push costs the API server."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from adapters.kubernetes.paths import configmaps
from tests.bench.figures import Measured
from tests.bench.place import Place
from tests.handlers.world import HOST, NAMESPACE, World, run_in_world

_NODES: Final = ("a", "b", "c")
_PROVED_SECONDS: Final = 0.2
"""From a push to the read that proves its lines; statuses are read and written later."""
_QUIET_SECONDS: Final = 60.0
_OWN: Final = ("/leases", "/secrets", "/mutatingwebhookconfigurations")
"""What `web` and `watch` read and write now and then whatever happens."""


async def push_requests(_place: Place) -> list[Measured]:
    """One push of a new tag, which one policy wants, on a quiet system with `watch` inside `web`.

    Reads until its lines are written and proved; writes until nothing is written any more, without those of the nodes'
    ConfigMaps. The embedded API server counts them, in time that jumps, so that the load of this machine does not.
    """
    counted: list[Measured] = []

    async def case(world: World) -> None:
        counted.extend(await _count(world))

    await asyncio.to_thread(run_in_world, case, watch=True)
    return counted


async def _count(world: World) -> list[Measured]:
    await world.add_nodes(*_NODES)
    await world.add_policy()
    async with world.app.router.lifespan_context(world.app):
        await world.push("first", repository="shop/other")
        await asyncio.sleep(_QUIET_SECONDS)
        world.requests.clear()
        answer = await world.push()
        assert answer.status_code == 202
        await asyncio.sleep(_PROVED_SECONDS)
        assert {node: len(lines) for node, lines in (await world.lines()).items()} == dict.fromkeys(_NODES, 2)
        reads = len(_reads(world))
        await asyncio.sleep(_QUIET_SECONDS)
        all_reads = len(_reads(world))
        writes = Counter(
            f"{method.lower()} {path.partition('/namespaces/shop/')[2].split('/')[0]}"
            for method, path in world.requests
            if method != "GET" and not path.startswith(configmaps(NAMESPACE)) and not _is_own(path)
        )
    return [
        Measured("push-reads", reads, (), f"{all_reads} with statuses; {HOST} pushes a new tag to {len(_NODES)} nodes"),
        Measured("push-writes", sum(writes.values()), (), f"{dict(writes)}; no agents"),
    ]


def _reads(world: World) -> list[str]:
    return [path for method, path in world.requests if method == "GET" and not _is_own(path)]


def _is_own(path: str) -> bool:
    return any(own in path for own in _OWN)
