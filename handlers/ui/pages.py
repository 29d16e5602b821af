"""Make the pages: each is a function from values to HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from handlers.ui import formats, pictures
from handlers.ui.rendering import render
from handlers.ui.timeline import timeline
from warmhook.checks import Check
from warmhook.delivery_records import DeliveryRecord
from warmhook.overview import (
    STATES,
    WORST_FIRST,
    CellKind,
    CellState,
    Failing,
    ImagePage,
    NodeCell,
    NodeGroup,
    NodePage,
    Overview,
    Tally,
)
from warmhook.reasons import meaning

_TABLE_ROWS: Final = 500
"""Nodes of an image that its table names; the picture has all."""
_FAILING_GROUPS: Final = 4
"""Reasons that the first page names."""
_PICTURE_NODES: Final = 24
"""From so many nodes on a picture says more than the table."""
_SILENT: Final = frozenset({"NoAgent", "Unreachable"})
_SYMBOLS: Final[Mapping[CellState, str]] = {
    "warm": "\N{CHECK MARK}",
    "pulling": "\N{DOWNWARDS ARROW}",
    "waiting": "\N{WHITE CIRCLE}",
    "failed": "\N{MULTIPLICATION X}",
    "unreachable": "?",
}


@dataclass(frozen=True, slots=True)
class View:
    """Who reads a page, and what was asked for."""

    reader: str = ""
    """The name of the user; empty on loopback, where nobody signs in."""
    change: int = 0
    """The number of the last change that the reader may see; a greater one follows in `/ui/changes`."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Of the URL: `by`, `state`, `namespace`, `q`; only those that are given, each at most 200 characters."""
    namespaces: tuple[str, ...] = ()
    """Namespaces with WarmImages that the reader may see, sorted."""
    may_see_nodes: bool = True
    may_see_deliveries: bool = True
    stale_seconds: int = 0
    """For so long what is shown could not be read; 0: it can be."""
    refusal: str = ""
    """Why the API server lets the page not read it; empty if it does not answer."""
    at: datetime | None = None
    """Now; `None`: pages say no ages."""
    sees_all_namespaces: bool = True
    """Otherwise WarmImages may exist that the reader may not see."""


@dataclass(frozen=True, slots=True)
class FailingReason:
    """Everything that fails for one reason."""

    reason: str
    entries: tuple[Failing, ...]
    """The most nodes first."""

    @property
    def images(self) -> int:
        """How many images."""
        return len({entry.warmimage for entry in self.entries})

    @property
    def nodes(self) -> int:
        """Pairs of an image and a node; 0: images as a whole."""
        return sum(entry.count for entry in self.entries)

    @property
    def most_nodes(self) -> int:
        """How many nodes do not have the image that the most nodes do not have."""
        return max(entry.count for entry in self.entries)


def overview_page(overview: Overview, view: View) -> str:
    """All images by pool, zone or node."""
    total = _sum(row.total for row in overview.rows)
    return _page(
        "overview.html",
        view,
        overview=overview,
        total=total,
        ready=sum(row.ready for row in overview.rows),
        failing=failing_reasons(overview.failing)[:_FAILING_GROUPS],
        failing_reasons=len({entry.reason for entry in overview.failing}),
        problems=_problems(overview.checks),
        filtered=any(view.query.get(name) for name in ("state", "namespace", "q")),
        **_node_picture(overview.groups if overview.dimension == "node" and view.may_see_nodes else ()),
    )


def image_page(page: ImagePage, view: View) -> str:
    """One image: its push as a timeline, what fails, and its nodes."""
    cells = [cell for cell in page.cells if _asked_for(cell, view.query)]
    kinds = sorted(
        {CellKind(cell.state, cell.reason) for cell in page.cells}, key=lambda kind: (kind.state, kind.reason)
    )
    # A picture keeps the nodes of a pool side by side; the table begins with those that failed.
    placed = sorted(page.cells, key=lambda cell: (cell.group, cell.node))
    groups = [NodeGroup(cell.node, 1, within=cell.group) for cell in placed]
    codes = {kind: number for number, kind in enumerate(kinds[:255], 1)}
    return _page(
        "image.html",
        view,
        page=page,
        cells=cells[:_TABLE_ROWS],
        matching=len(cells),
        cell_codes=bytes(codes.get(CellKind(cell.state, cell.reason), 0) for cell in placed),
        cell_kinds=kinds[:255],
        with_picture=len(placed) >= _PICTURE_NODES,
        timeline=timeline(page.timeline),
        failing=failing_reasons(page.failing),
        **_node_picture(groups),
    )


def node_page(page: NodePage, view: View) -> str:
    """One node, and the images that it should hold."""
    wanted = [(key, image, cell) for key, (image, cell) in page.images.items() if _asked_for(cell, view.query, image)]
    wanted.sort(key=lambda row: (WORST_FIRST.index(row[2].state), row[1], row[0]))
    states = Counter[str](cell.state for _, cell in page.images.values())
    return _page("node.html", view, page=page, images=wanted, total=Tally(**states))


def deliveries_page(deliveries: Sequence[DeliveryRecord], view: View) -> str:
    """What registries have sent, and what became of it."""
    text = view.query.get("q", "").casefold()
    shown = [delivery for delivery in deliveries if text in _words(delivery)]
    results = Counter(delivery.result for delivery in deliveries)
    return _page("deliveries.html", view, deliveries=shown, results=sorted(results.items()), all=len(deliveries))


def failing_page(failing: Sequence[Failing], checks: Sequence[Check], view: View) -> str:
    """What is wrong with the installation, and which images fail where and why."""
    return _page("failing.html", view, failing=failing_reasons(failing), checks=checks, problems=_problems(checks))


def sign_in_page(problem: str = "") -> str:
    """The form that takes a token."""
    return _page("sign_in.html", None, problem=problem)


def error_page(status: int, message: str) -> str:
    """In place of a page that cannot be shown."""
    return _page("error.html", None, status=status, message=message)


def failing_reasons(failing: Iterable[Failing]) -> list[FailingReason]:
    """By reason, the most nodes first; what only comes from silent agents is last, as it says nothing of the image."""
    by_reason: dict[str, list[Failing]] = {}
    for entry in failing:
        by_reason.setdefault(entry.reason, []).append(entry)
    found = [
        FailingReason(
            reason,
            tuple(sorted(entries, key=lambda entry: (-entry.count, entry.warmimage, entry.message))),
        )
        for reason, entries in by_reason.items()
    ]
    return sorted(found, key=lambda each: (each.reason in _SILENT, -each.nodes, each.reason))


def _page(template: str, view: View | None, **values: Any) -> str:
    return formats.printable(
        render(
            template,
            template=template,
            view=view,
            states=STATES,
            symbols=_SYMBOLS,
            meaning=meaning,
            formats=formats,
            pictures=pictures,
            now=view.at if view else None,
            **values,
        )
    )


def _node_picture(groups: Sequence[NodeGroup]) -> dict[str, Any]:
    """What a template needs to draw one cell for each of these nodes."""
    form = pictures.shape(len(groups))
    return {"form": form, "bands": pictures.bands(groups, form), "node_names": [group.name for group in groups]}


def _sum(tallies: Iterable[Tally]) -> Tally:
    sums: Counter[str] = Counter()
    for tally in tallies:
        for state in STATES:
            sums[state] += getattr(tally, state)
    return Tally(**sums)


def _problems(checks: Iterable[Check]) -> list[Check]:
    return [check for check in checks if check.state in ("wrong", "unknown")]


def _asked_for(cell: NodeCell, query: Mapping[str, str], image: str = "") -> bool:
    """Whether the filters take this node or image."""
    state, text = query.get("state", ""), query.get("q", "").casefold()
    words = f"{image} {cell.node if not image else ''} {cell.group} {cell.reason}".casefold()
    return (not state or cell.state == state) and text in words


def _words(delivery: DeliveryRecord) -> str:
    words = (delivery.source, delivery.kind, delivery.result, delivery.reason, delivery.event_id, *delivery.images)
    return " ".join(words).casefold()
