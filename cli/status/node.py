"""Print one node: when its agent reported last, and its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from cli.cluster import Cluster
from cli.diff.nodes import difference_cell
from cli.images import NodeState
from cli.output import Cell, OutputFormat, Styled, print_object, print_table, printable
from cli.status.images import COLOURS, nodes_text
from warmhook.durations import format_duration
from warmhook.image_status import ImageStatus
from warmhook.line_differences import DIFFERENCES, NodeLine
from warmhook.node_lines import line_key
from warmhook.overview import STATES
from warmhook.timestamps import format_time


def show_node(cluster: Cluster, node: NodeState, known: Sequence[ImageStatus], output: OutputFormat) -> None:
    """Print it in that format; the `known` WarmImages name those that found no room."""
    if output in ("json", "yaml"):
        print_object(_as_object(cluster, node, known), output)
        return
    click.echo(f"Node:    {printable(node.name)}")
    click.echo(f"Agent:   {_agent(cluster, node)}")
    counts = {state: sum(line.state == state for line in node.lines) for state in STATES if state != "unreachable"}
    click.echo(f"Images:  {len(node.lines)}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if no_room := _no_room(node, known):
        click.echo(f"No room: {click.style(printable(nodes_text(no_room, len(no_room), shown=10)), fg='red')}")
    if node.lines:
        click.echo()
        columns = ["NAMESPACE", "IMAGE", "STATE", "REASON", "MESSAGE"] + ["NAME"] * (output == "wide")
        print_table(columns, (_row(line) + [line.warmimage.name] * (output == "wide") for line in node.lines))


def show_node_differences(
    cluster: Cluster, node: NodeState, known: Sequence[ImageStatus], output: OutputFormat
) -> bool:
    """Print how the node differs from what it should hold, in that format; whether it does not."""
    reachable = node.report is not None and node.report.reachable(cluster.clock.utcnow())
    lines, no_room = [line for line in node.lines if line.difference], _no_room(node, known)
    same = (reachable or not node.lines) and not lines and not no_room
    if output in ("json", "yaml"):
        print_object(_as_object(cluster, replace(node, lines=tuple(lines)), known), output)
        return same
    if same:
        click.echo(f"{printable(node.name)} holds what it should: {len(node.lines)} lines")
        return True
    rows: list[list[Cell]] = []
    if not reachable:
        rows.append([difference_cell("silent"), "-", "-", "", click.unstyle(_agent(cluster, node))])
    rows += [[difference_cell("noRoom"), *name.split("/", 1), "", DIFFERENCES["noRoom"]] for name in no_room]
    for line in lines:
        assert line.difference is not None  # noqa: S101 - those without one were left out
        text = line.message or DIFFERENCES[line.difference]
        image = line.image or str(line.warmimage)
        rows.append([difference_cell(line.difference), line.warmimage.namespace, image, line.reason, text])
    print_table(("DIFFERENCE", "NAMESPACE", "IMAGE", "REASON", "MESSAGE"), rows)
    return False


def _no_room(node: NodeState, known: Sequence[ImageStatus]) -> list[str]:
    """Namespace and name of the WarmImages without room, as far as they are known."""
    names = {line_key(status.key): f"{status.key}" for status in known}
    return sorted(names.get(key, f"-/line {key}") for key in node.no_room)


def _agent(cluster: Cluster, node: NodeState) -> str:
    """The last sign of life of its agent, for people."""
    if node.report is None or node.report.seen is None:
        return click.style("has never reported", fg="yellow")
    now, seen = cluster.clock.utcnow(), node.report.seen
    ago = f"reported {format_duration(abs((now - seen).total_seconds()))} {'ago' if seen <= now else 'in the future'}"
    if node.report.reachable(now):
        return ago
    advice = "the states below may be old; check its Pod, and the clocks of the node and of this machine"
    return f"{click.style('unreachable', fg='yellow')}: {ago}; {advice}"


def _as_object(cluster: Cluster, node: NodeState, known: Sequence[ImageStatus]) -> dict[str, Any]:
    report = node.report
    found: dict[str, Any] = {"node": node.name, "reachable": bool(report and report.reachable(cluster.clock.utcnow()))}
    if report is not None and report.seen is not None:
        found["seenAt"] = format_time(report.seen)
    return found | {"lines": [line.as_object() for line in node.lines], "noRoom": _no_room(node, known)}


def _row(line: NodeLine) -> list[Cell]:
    image = line.image or str(line.warmimage)
    return [line.warmimage.namespace, image, Styled(line.state, COLOURS[line.state]), line.reason, line.message]
