"""Tell nodes about the blobs of pushes that have not ended: nodes that have the last image of the repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from handlers.reconcile.context import Context
from handlers.reconcile.node_configmaps import NodeChange, NodeWrites
from handlers.reconcile.objects import DesiredConfigMap
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.reader import FROM_CACHE, MAX_GETS
from warmhook.distribution import Candidate, plan
from warmhook.early_blobs import EarlyBlobs, early_hints
from warmhook.hints import Early
from warmhook.node_lines import line_key, line_of
from warmhook.peer_rates import measured_rates
from warmhook.warmimages import WarmImage

_SECONDS: Final = 5.0
"""For all WarmImages of one event; after this pushes have nearly ended, and nodes fetch the blobs then."""


class EarlyHints:
    """Writes what is noted in WarmImages to nodes."""

    def __init__(self, context: Context, writes: NodeWrites) -> None:
        self._context, self._writes, self._monotonic = context, writes, context.clock.monotonic

    async def write(self, warmimages: Iterable[WarmImage]) -> None:
        """Write the blobs of these WarmImages to nodes that do not know them. Nothing fails because of them."""
        now = self._context.clock.utcnow().timestamp()
        due = [one for one in warmimages if one.early_blobs is not None and one.early_blobs.lasts(now)]
        due = [one for one in due if not (one.template.suspend or one.purged)]
        # Its own outcomes: no event is repeated for it.
        await Outcomes().each("early-blobs", due, self._write, name=_name, group=_namespace, seconds=_SECONDS)

    async def _write(self, warmimage: WarmImage) -> None:
        key, blobs, deadline = line_key(warmimage.key), warmimage.early_blobs, self._monotonic() + _SECONDS
        held = {have.node: have for have in await self._context.reader.desired(key, not_older_than=FROM_CACHE)}
        told = await self._told(warmimage, blobs, held) if held and blobs else {}
        changes = {
            name: NodeChange(held[name].owner_uid, {}, early={key: early})
            for name, early in sorted(told.items())
            if held[name].early.get(key) != early.expires_at
        }
        await self._writes.write(changes, deadline, _nothing_else, Outcomes())

    async def _told(
        self, warmimage: WarmImage, blobs: EarlyBlobs, held: Mapping[str, DesiredConfigMap]
    ) -> dict[str, Early]:
        """What each node is told: the tree is that of the image that will be pushed, if it is as large as the last."""
        reader, image = self._context.reader, warmimage.image.canonical
        now = self._context.clock.utcnow()
        reports = await reader.peers()
        serving = {name: one for name, one in reports.items() if one.peer is not None and one.reachable(now)}
        names = held.keys() & serving.keys()
        if len(names) <= MAX_GETS:
            nodes = list((await reader.nodes_of(names)).values())
        else:
            nodes = [node for node in await reader.nodes(not_older_than=FROM_CACHE) if node.name in names]
        candidates = [Candidate(node, serving[node.name].peer) for node in sorted(nodes, key=lambda node: node.name)]
        rates = measured_rates((one.peer for one in serving.values() if one.peer), image.host, self._context.rates)
        size_bytes = max(line_of(warmimage).size_bytes, blobs.size_bytes)
        found = plan(image.name, candidates, size_bytes, rates, warmimage.template.source)
        hints = {each.node.name: found.hint(each.node.name, blobs.expires_at) for each in candidates}
        return early_hints(blobs, image, hints, self._context.early_nodes)


def _name(warmimage: WarmImage) -> str:
    return str(warmimage.key)


def _namespace(warmimage: WarmImage) -> str:
    return warmimage.key.namespace


async def _nothing_else(_node: str) -> NodeChange | None:
    """A ConfigMap that vanished since is created with its lines by whoever finds it missing."""
    return None
