"""Print WarmImages as a table, and below it what is failing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import click

from cli.cluster import Cluster
from cli.output import Cell, OutputFormat, Styled, print_object, print_table
from warmhook.durations import format_duration
from warmhook.image_status import ImageStatus, State
from warmhook.overview import CellState

COLOURS: Final[Mapping[State | CellState, str]] = {
    "warm": "green",
    "complete": "green",
    "pulling": "cyan",
    "waiting": "cyan",
    "failing": "red",
    "failed": "red",
    "unreachable": "yellow",
    "uncounted": "yellow",
    "stopped": "yellow",
}
_FAILING_SHOWN: Final = 20
_NODES_SHOWN: Final = 3


def show_images(cluster: Cluster, statuses: Sequence[ImageStatus], output: OutputFormat) -> None:
    """Print them in that format."""
    if output in ("json", "yaml"):
        print_object({"warmImages": [status.as_object() for status in statuses]}, output)
        return
    if not statuses:
        where = f"namespace {cluster.namespace}; -A looks into all" if cluster.namespace else "any namespace"
        click.echo(f"no WarmImages in {where}", err=True)
        return
    wide, everywhere, now = output == "wide", not cluster.namespace, cluster.clock.utcnow()
    columns = ["NAMESPACE"] * everywhere + ["IMAGE", "WARM", "STATE", "AGE"]
    columns += ["NAME", "POLICY", "PULLING", "WAITING", "FAILED", "UNREACHABLE", "PUSHED", "DIGEST"] * wide
    print_table(
        columns,
        (
            ([each.key.namespace] * everywhere) + _row(each, now) + (_more(each, now) if wide else [])
            for each in statuses
        ),
    )
    _show_failing(statuses, everywhere=everywhere)


def state_cell(status: ImageStatus) -> Styled:
    """The state of an image in its colour; of what is stopped the reason says more."""
    word = status.reason if status.state == "stopped" else status.state
    return Styled(word, COLOURS[status.state])


def nodes_text(nodes: Sequence[str], count: int, shown: int = _NODES_SHOWN) -> str:
    """`node-1, node-2, node-3 and 9 more`."""
    listed = ", ".join(nodes[:shown])
    left = count - min(shown, len(nodes))
    return f"{listed} and {left} more" if left and listed else listed or str(count)


def _row(status: ImageStatus, now: datetime) -> list[Cell]:
    tally = status.tally
    warm = f"{tally.warm}/{tally.desired}" if status.counted else "-"
    return [status.image, warm, state_cell(status), _since(status.created_at, now)]


def _more(status: ImageStatus, now: datetime) -> list[Cell]:
    tally = status.tally
    counts = (tally.pulling, tally.waiting, tally.failed, tally.unreachable)
    digest = status.digest or status.wanted_digest
    return [
        status.key.name,
        status.policy or "-",
        *map(str, counts),
        _since(status.pushed_at, now),
        digest or "-",
    ]


def _since(moment: datetime | None, now: datetime) -> str:
    return format_duration((now - moment).total_seconds()) if moment is not None else "-"


def _show_failing(statuses: Sequence[ImageStatus], *, everywhere: bool) -> None:
    failing = [each for status in statuses for each in status.failing]
    if not failing:
        return
    click.echo("\nFailing, from the first ten nodes of each image:\n")
    columns = ["NAMESPACE"] * everywhere + ["IMAGE", "REASON", "NODES", "MESSAGE"]
    rows = (
        ([each.warmimage.namespace] * everywhere)
        + [each.image, each.reason, nodes_text(each.nodes, each.count), each.message]
        for each in failing[:_FAILING_SHOWN]
    )
    print_table(columns, rows)
    if len(failing) > _FAILING_SHOWN:
        click.echo(f"and {len(failing) - _FAILING_SHOWN} more; -o json has all")
