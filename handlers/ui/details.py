"""Read why an image failed on a node from its report, a few reports at a time and each seldom."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Final

from adapters.clock import Clock
from adapters.kubernetes.errors import KubernetesError
from handlers.reconcile.reader import Reader
from warmhook.node_report import read_detail

_NODES_MAX: Final = 10
"""Reports that are read for one page."""
_KEPT_MAX: Final = 64
"""A report has at most 256 KiB."""
_FRESH_SECONDS: Final = 15.0
_SECONDS: Final = 2.0
"""A page does not wait longer: it has the reasons that the status names without them."""
_AT_ONCE: Final = 4


class ReportDetails:
    """The details of reports that pages needed last."""

    def __init__(self, reader: Reader, clock: Clock) -> None:
        self._reader, self._clock = reader, clock
        self._kept: OrderedDict[str, tuple[float, Mapping[str, str]]] = OrderedDict()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def of_nodes(self, nodes: Collection[str], line: str) -> dict[str, tuple[str, str]]:
        """Reason and message of a line on the first of these nodes, by node, as far as their reports have them."""
        names = list(nodes)[:_NODES_MAX]
        found = await asyncio.gather(*map(self._read, names))
        return {name: read_detail(data[line]) for name, data in zip(names, found, strict=True) if line in data}

    async def of_node(self, node: str) -> dict[str, tuple[str, str]]:
        """Reason and message by the key of a line."""
        return {line: read_detail(text) for line, text in (await self._read(node)).items()}

    async def _read(self, node: str) -> Mapping[str, str]:
        kept = self._kept.get(node)
        if kept is not None and self._clock.monotonic() - kept[0] < _FRESH_SECONDS:
            return kept[1]
        try:
            async with asyncio.timeout(_SECONDS), self._turns:
                data = await self._reader.report_data(node)
        except (KubernetesError, TimeoutError):
            return kept[1] if kept is not None else {}
        self._kept[node] = (self._clock.monotonic(), data)
        if len(self._kept) > _KEPT_MAX:
            self._kept.popitem(last=False)
        return data
