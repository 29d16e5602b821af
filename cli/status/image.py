"""Print one WarmImage: how far it has come, why nodes do not have it, and how it came to them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from adapters.kubernetes import paths
from cli.cluster import Cluster
from cli.images import NODES_PAGE
from cli.output import OutputFormat, Styled, print_object, print_table, printable
from cli.status.images import COLOURS, nodes_text, state_cell
from warmhook.api import KIND_LABEL, LINE_LABEL
from warmhook.durations import format_duration
from warmhook.image_status import ImageStatus
from warmhook.node_lines import desired_node, line_key, versions
from warmhook.node_report import read_report
from warmhook.overview import STATES, WORST_FIRST, CellState
from warmhook.ports import Object
from warmhook.sizes import format_bytes
from warmhook.timestamps import format_time


async def show_image(cluster: Cluster, status: ImageStatus, output: OutputFormat) -> None:
    """Print it in that format; wide adds a row for each node. Raises `KubernetesError`."""
    if output in ("json", "yaml"):
        print_object({"warmImages": [status.as_object()]}, output)
        return
    now = cluster.clock.utcnow()
    fields = list(_fields(status, now))
    width = max(len(name) for name, _ in fields) + 3
    for name, text in fields:
        click.echo(f"{name + ':':<{width}}{text}")
    if status.failing:
        click.echo("\nFailing, from the first ten nodes:\n")
        rows = ((each.reason, nodes_text(each.nodes, each.count, shown=10), each.message) for each in status.failing)
        print_table(("REASON", "NODES", "MESSAGE"), rows)
    if output == "wide":
        click.echo()
        nodes = await _read_nodes(cluster, status, now)
        reasons = {node: each.reason for each in status.failing for node in each.nodes}
        print_table(
            ("NODE", "STATE", "REASON"),
            ((node, Styled(state, COLOURS[state]), reasons.get(node, "")) for node, state in nodes),
        )


def _fields(status: ImageStatus, now: datetime) -> Iterator[tuple[str, str]]:
    """Name and text of what there is to say; the text is safe to print."""
    tally, owner = status.tally, f", of the policy {status.policy}" if status.policy else ""
    yield "Image", printable(status.image)
    yield "WarmImage", printable(f"{status.key}{owner}")
    if digest := status.digest or status.wanted_digest:
        yield "Digest", printable(digest)
    state = state_cell(status)
    reason = f": {status.message}" if status.message else ""
    yield "State", click.style(state.text, fg=state.colour) + printable(reason)
    counts = {name: getattr(tally, name) for name in STATES}
    yield "Nodes", f"{tally.desired}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
    began = status.pushed_at or status.created_at
    if began is not None:
        what = "Pushed" if status.pushed_at is not None else "Created"
        yield what, f"{format_time(began.replace(microsecond=0))}, {format_duration((now - began).total_seconds())} ago"
    if status.completed_at is not None and began is not None:
        took = format_duration((status.completed_at - began).total_seconds())
        yield "Warm", f"{format_time(status.completed_at.replace(microsecond=0))}, after {took}"
    if status.distribution:
        yield "Distribution", _distribution(status.distribution)


def _distribution(found: Any) -> str:
    """How nodes got the image from each other."""

    def number(name: str) -> int:
        value = found.get(name)
        return value if isinstance(value, int) else 0

    sent = f"{format_bytes(number('bytesFromPeers'))} from nodes, {format_bytes(number('bytesFromRegistry'))} from it"
    slowest = f"{number('slowestTransferSeconds')}s, and {number('slowestUnpackSeconds')}s to unpack"
    read = f"{number('seeds')} read the registry, {number('fallbacks')} fell back to it"
    return f"{number('nodes')} nodes by a plan: {read}; {sent}; the slowest took {slowest}"


async def _read_nodes(cluster: Cluster, status: ImageStatus, now: datetime) -> list[tuple[str, CellState]]:
    """Each node that has a line for the image, and the state there; what is not warm first."""
    key, path = line_key(status.key), paths.configmaps(cluster.system_namespace)
    wanted: dict[str, str] = {}
    states: dict[str, CellState] = {}

    def keep_line(obj: Object) -> Object:
        node, lines = desired_node(obj["metadata"]["name"]), versions(obj["metadata"].get("labels") or {})
        if node and key in lines:
            wanted[node] = lines[key]
        return {}

    def keep_state(obj: Object) -> Object:
        report = read_report(obj["metadata"])
        if report.node in wanted:
            states[report.node] = report.state(key, wanted[report.node]) if report.reachable(now) else "unreachable"
        return {}

    labels = f"{KIND_LABEL}=desired,{LINE_LABEL}{key}"
    await cluster.kubernetes.list(path, labels=labels, metadata_only=True, page=NODES_PAGE, keep=keep_line)
    await cluster.kubernetes.list(
        path, labels=f"{KIND_LABEL}=report", metadata_only=True, page=NODES_PAGE, keep=keep_state
    )
    found = ((node, states.get(node, "unreachable")) for node in wanted)
    return sorted(found, key=lambda each: (WORST_FIRST.index(each[1]), each[0]))
