"""Make the pages: each is a function from values to HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from handlers.ui.rendering import render
from warmhook.checks import Check
from warmhook.delivery_records import DeliveryRecord
from warmhook.overview import Failing, ImagePage, NodePage, Overview


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
    """For so long the API server has not answered; 0: it answers."""


def overview_page(overview: Overview, view: View) -> str:
    return render("stub.html", title="Images on nodes", values=overview, view=view)


def image_page(page: ImagePage, view: View) -> str:
    return render("stub.html", title=page.row.image, values=page, view=view)


def node_page(page: NodePage, view: View) -> str:
    return render("stub.html", title=page.name, values=page, view=view)


def deliveries_page(deliveries: Sequence[DeliveryRecord], view: View) -> str:
    return render("stub.html", title="Deliveries", values=deliveries, view=view)


def failing_page(failing: Sequence[Failing], checks: Sequence[Check], view: View) -> str:
    return render("stub.html", title="Failing", values=(failing, checks), view=view)


def sign_in_page(problem: str = "") -> str:
    return render("sign_in.html", problem=problem)


def error_page(status: int, message: str) -> str:
    return render("stub.html", title=f"{status}: {message}", values="", view=None)
