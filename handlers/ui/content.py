"""Build what pages show, once for all readers with the same rights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from adapters.clock import Clock
from handlers.ui.cache import ClusterCache
from handlers.ui.details import ReportDetails
from warmhook.checks import Check
from warmhook.inventory import Rights
from warmhook.object_pages import failed_nodes, image_page, node_page
from warmhook.overview import Failing, ImagePage, NodePage, Overview
from warmhook.overview_failing import installation_checks
from warmhook.overview_rows import Selection, Totals, failing, overview
from warmhook.warmimages import ObjectKey

_SHARED_MAX: Final = 32
"""Overviews that readers share until something changes."""


class Content:
    """The values of the pages."""

    def __init__(self, cache: ClusterCache, details: ReportDetails, clock: Clock) -> None:
        self._cache, self._details, self._clock = cache, details, clock
        self._built_from: Totals | None = None
        self._overviews: dict[tuple[Rights, Selection], Overview] = {}

    @property
    def now(self) -> datetime:
        """The time for which pages say how long ago something was."""
        return self._clock.utcnow()

    def overview(self, rights: Rights, selection: Selection) -> Overview:
        """The first page."""
        counted = self._cache.counted()
        totals = counted.totals
        if totals is not self._built_from or len(self._overviews) >= _SHARED_MAX:
            self._built_from, self._overviews = totals, {}
        found = self._overviews.get((rights, selection))
        if found is None:
            found = overview(self._cache.inventory, totals, rights, selection, counted.time)
            self._overviews[rights, selection] = found
        return replace(found, at=counted.time)

    def failing(self, rights: Rights, selection: Selection) -> tuple[Sequence[Failing], Sequence[Check]]:
        """What is failing, of images and of the installation."""
        inventory = self._cache.inventory
        return failing(inventory, self._cache.counted().totals, rights, selection), installation_checks(
            inventory, rights
        )

    async def image(self, rights: Rights, key: ObjectKey) -> ImagePage | None:
        """The page of an image; `None` if there is none that the reader may see."""
        inventory = self._cache.inventory
        facts = inventory.images.get(key) if rights.sees(key.namespace) else None
        if facts is None:
            return None
        details = {}
        if rights.nodes:
            details = await self._details.of_nodes(failed_nodes(inventory, facts), facts.line_key)
        totals = self._cache.counted().totals
        return image_page(inventory, totals, rights, facts, details)

    async def node(self, rights: Rights, name: str) -> NodePage | None:
        """The page of a node, for readers who may see nodes; `None` if there is no such node."""
        if name not in self._cache.inventory.nodes:
            return None
        details = await self._details.of_node(name)
        self._cache.counted()
        return node_page(self._cache.inventory, rights, name, details, self._clock.utcnow())
