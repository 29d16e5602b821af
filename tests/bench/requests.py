"""Count what the API server is asked and has to keep for images on nodes, to compare with systems that do the same."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import aiohttp

from adapters.kubernetes.paths import NODES, configmaps, warmimages_in
from tests.bench.figures import Measured
from tests.bench.nodes import push
from tests.bench.place import Place
from tests.bench.runtimes import repository_of, start_runtimes
from tests.bench.sending import open_sender, start_web
from tests.real.programs import eventually

_NODES: Final = 10
_IMAGES: Final = 20
_WAIT_SECONDS: Final = 120.0
_READS: Final = re.compile(r'^warmhook_api_requests_total\{[^}]*verb="(?:get|list)"[^}]*\} (\S+)$', re.MULTILINE)


async def requests(place: Place) -> list[Measured]:
    """Pushes to ten nodes with an agent process each, until every node has the image and the status says so.

    Writes are those of all programs, Leases and Events included: the API server counts them in its resourceVersion.
    Reads are those of `web` with `watch` inside; agents read nothing but their watches.
    """
    nodes = await place.create_nodes(_NODES)
    runtimes = await start_runtimes(place, nodes=_NODES, repositories=_IMAGES, tags=2)
    await place.create_policy("one", f"{runtimes.host}/team-a/**", keep=2)
    for number, node in enumerate(nodes):
        await place.cluster.start_agent(node.name, runtimes.socket(number))
    web = await start_web(place, "--watch", host=runtimes.host)
    async with open_sender(web.port) as sender, aiohttp.ClientSession() as session:

        async def counted(repositories: range, tag: str) -> tuple[int, int]:
            """The writes and reads of pushing these at once."""
            path = warmimages_in(place.namespace)
            done = sum(map(_is_complete, (await place.kubernetes.list(path)).items)) + len(repositories)
            before = await _count(place, session, web.port)
            await asyncio.gather(*(push(sender, runtimes.host, repository_of(at), tag) for at in repositories))

            async def all_complete() -> bool:
                return sum(map(_is_complete, (await place.kubernetes.list(path)).items)) >= done

            what = f"{len(repositories)} images are warm on {_NODES} nodes"
            await eventually(all_complete, what=what, seconds=_WAIT_SECONDS)
            after = await _count(place, session, web.port)
            return after[0] - before[0], after[1] - before[1]

        # The first push creates the ConfigMaps.
        await counted(range(1), "v1.0")
        one = await counted(range(1), "v1.1")
        place.say(f"{_IMAGES} pushes at once to {_NODES} nodes")
        many = await counted(range(1, _IMAGES), "v1.1")
    pairs = (_IMAGES - 1) * _NODES
    stored = len((await place.kubernetes.list(warmimages_in(place.namespace), metadata_only=True)).items)
    stored += len((await place.kubernetes.list(configmaps(place.namespace), metadata_only=True)).items)
    images = _IMAGES + 1
    return [
        Measured(
            "writes-per-node", one[0] / _NODES, (), f"one image on {_NODES} nodes; {one[0]} writes, {one[1]} reads"
        ),
        Measured(
            "writes-per-node-image",
            many[0] / pairs,
            (),
            f"{_IMAGES - 1} images on {_NODES} nodes; {many[0]} writes, {many[1]} reads",
        ),
        Measured("objects-per-node-image", stored / (images * _NODES), (), f"{stored} objects, {images} images"),
    ]


def _is_complete(warmimage: dict[str, object]) -> bool:
    status = warmimage.get("status")
    return isinstance(status, dict) and "completedAt" in status


async def _count(place: Place, session: aiohttp.ClientSession, port: int) -> tuple[int, int]:
    """The writes so far, by the resourceVersion, and the reads of `web`."""
    version = (await place.kubernetes.list(NODES, metadata_only=True)).resource_version
    async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        reads = sum(float(value) for value in _READS.findall(await answer.text()))
    return int(version), int(reads)
