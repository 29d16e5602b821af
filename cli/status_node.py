"""Print one node: when its agent reported last, and its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from cli.cluster import Cluster
from cli.images import NodeState
from cli.output import OutputFormat, Styled, print_object, print_table, printable
from warmhook.durations import format_duration
from warmhook.image_status import ImageStatus
from warmhook.line_differences import NodeLine
from warmhook.node_lines import line_key
from warmhook.timestamps import format_time

_COLOURS = {"warm": "green", "pulling": "cyan", "waiting": "cyan", "failed": "red"}


def show_node(cluster: Cluster, node: NodeState, statuses: Sequence[ImageStatus], output: OutputFormat) -> None:
    """Print it in that format; `statuses` name the images that found no room, as far as they are known."""
    names = {line_key(status.key): status for status in statuses}
    no_room = sorted(f"{names[key].key}" if key in names else key for key in node.no_room)
    if output in ("json", "yaml"):
        print_object(node_object(cluster, node) | {"noRoom": no_room}, output)
        return
    click.echo(f"Node:    {printable(node.name)}")
    click.echo(f"Agent:   {agent_text(cluster, node)}")
    counts = {state: sum(line.state == state for line in node.lines) for state in _COLOURS}
    click.echo(f"Images:  {len(node.lines)}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if no_room:
        listed = ", ".join(no_room[:10]) + (f" and {len(no_room) - 10} more" if len(no_room) > 10 else "")
        click.echo(click.style(printable(f"No room: {len(no_room)}: {listed}"), fg="red"))
    if node.lines:
        click.echo()
        columns = ["NAMESPACE", "IMAGE", "STATE", "REASON", "MESSAGE"] + ["NAME"] * (output == "wide")
        print_table(columns, (_row(line) + [line.warmimage.name] * (output == "wide") for line in node.lines))


def agent_text(cluster: Cluster, node: NodeState) -> str:
    """The last sign of life of its agent, for people."""
    if node.report is None or node.report.seen is None:
        return click.style("has never reported", fg="yellow")
    now, seen = cluster.clock.utcnow(), node.report.seen
    ago = f"reported {format_duration(abs((now - seen).total_seconds()))} {'ago' if seen <= now else 'in the future'}"
    if node.report.reachable(now):
        return ago
    advice = "the states below may be old; check its Pod, and the clocks of the node and of this machine"
    return f"{click.style('unreachable', fg='yellow')}: {ago}; {advice}"


def node_object(cluster: Cluster, node: NodeState) -> dict[str, Any]:
    """For JSON and YAML."""
    report = node.report
    found: dict[str, Any] = {"node": node.name, "reachable": bool(report and report.reachable(cluster.clock.utcnow()))}
    if report is not None and report.seen is not None:
        found["seenAt"] = format_time(report.seen)
    return found | {"lines": [line.as_object() for line in node.lines]}


def _row(line: NodeLine) -> list[str | Styled]:
    image = line.image or str(line.warmimage)
    return [line.warmimage.namespace, image, Styled(line.state, _COLOURS[line.state]), line.reason, line.message]
