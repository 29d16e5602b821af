"""Compare the lines of all nodes with their reports, and print what differs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import click

from adapters.kubernetes import paths
from cli.cluster import Cluster
from cli.images import NODES_PAGE
from cli.output import Cell, OutputFormat, Styled, print_object, print_table
from cli.status.images import nodes_text
from warmhook.api import DROPPED_ANNOTATION, KIND_LABEL, SEEN_ANNOTATION, WARM_ANNOTATION
from warmhook.image_status import ImageStatus
from warmhook.line_differences import DIFFERENCES, Difference, differences
from warmhook.node_lines import desired_node, line_key, versions
from warmhook.node_report import Report, read_report, report_node
from warmhook.ports import Object
from warmhook.timestamps import format_time

_COLOURS: Final = {
    "pulling": "cyan",
    "missing": "cyan",
    "unseen": "cyan",
    "uncounted": "yellow",
    "silent": "yellow",
}
"""The others are red."""
_NOTHING: Final[Object] = {}
_READ: Final = frozenset({SEEN_ANNOTATION, WARM_ANNOTATION})


@dataclass(slots=True)
class Comparison:
    """How the nodes differ from what they should hold."""

    images: dict[str, ImageStatus]
    """By line key the images that were compared."""
    everything: bool
    """Whether lines of WarmImages that are gone count as well."""
    nodes: int = 0
    """That should hold one of the images."""
    lines: int = 0
    found: defaultdict[tuple[Difference, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Names of nodes by difference and line key; empty for `uncounted`."""
    silent: dict[str, datetime | None] = field(default_factory=dict)
    """The last sign of life of the agents of nodes of which nothing is known; `None`: never."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.found and not self.silent

    def take(self, node: str, metadata: Object, report: Report | None, now: datetime) -> None:
        """Compare one node; `metadata` is that of its desired ConfigMap."""
        lines = versions(metadata.get("labels") or {})
        refused = filter(None, (metadata.get("annotations") or {}).get(DROPPED_ANNOTATION, "").split(","))
        if not self.everything:
            lines = {key: version for key, version in lines.items() if key in self.images}
        without_room = {key for key in refused if self.everything or key in self.images}
        if not lines and not without_room:
            return
        self.nodes, self.lines = self.nodes + 1, self.lines + len(lines)
        if report is None or not report.reachable(now):
            self.silent[node] = report.seen if report is not None else None
            return
        purged = {key for key, status in self.images.items() if status.reason == "Purged"}
        for key, difference in differences(lines, without_room, report, purged):
            self.found[difference, key].append(node)

    def sorted(self) -> list[tuple[Difference, str, list[str]]]:
        """The worst first, of the most nodes first."""
        order = list(DIFFERENCES)
        found = [(difference, key, sorted(nodes)) for (difference, key), nodes in self.found.items()]
        return sorted(found, key=lambda each: (order.index(each[0]), -len(each[2]), each[1]))


async def compare_nodes(cluster: Cluster, images: Sequence[ImageStatus], *, everything: bool) -> Comparison:
    """Compare the lines of these images on all nodes. Raises `KubernetesError`.

    Of each ConfigMap only the metadata is read, and of that only what is needed is kept: thousands of nodes have
    hundreds of lines each. Reports are read first, so a line that is written meanwhile may be `unseen`.
    """
    compared = Comparison({line_key(status.key): status for status in images}, everything)
    compared.found |= {("uncounted", line_key(status.key)): [] for status in images if not status.counted}
    reports: dict[str, Object] = {}
    path, now = paths.configmaps(cluster.system_namespace), cluster.clock.utcnow()

    def keep_report(obj: Object) -> Object:
        metadata = obj["metadata"]
        # As text until it is compared: the sets of versions take ten times as much.
        annotations = {name: text for name, text in (metadata.get("annotations") or {}).items() if name in _READ}
        reports[report_node(metadata["name"])] = metadata | {"annotations": annotations}
        return _NOTHING

    def compare(obj: Object) -> Object:
        if node := desired_node(obj["metadata"]["name"]):
            reported = reports.pop(node, None)
            compared.take(node, obj["metadata"], read_report(reported) if reported is not None else None, now)
        return _NOTHING

    await cluster.kubernetes.list(
        path, labels=f"{KIND_LABEL}=report", metadata_only=True, page=NODES_PAGE, keep=keep_report
    )
    await cluster.kubernetes.list(
        path, labels=f"{KIND_LABEL}=desired", metadata_only=True, page=NODES_PAGE, keep=compare
    )
    return compared


def show_comparison(cluster: Cluster, compared: Comparison, output: OutputFormat) -> None:
    """Print it in that format."""
    if output in ("json", "yaml"):
        print_object(_as_object(compared), output)
    elif compared.same and not compared.nodes:
        where = f"of namespace {cluster.namespace}; -A compares all" if cluster.namespace else "at all"
        click.echo(f"no node should hold an image {where}")
    elif compared.same:
        click.echo(f"{compared.nodes} nodes hold what they should: {compared.lines} lines")
    else:
        columns = ["DIFFERENCE"] + ["NAMESPACE"] * (not cluster.namespace) + ["IMAGE", "NODES", "WHICH"]
        print_table(columns, _rows(compared, everywhere=not cluster.namespace, wide=output == "wide"))
    if compared.nodes > 1 and len(compared.silent) == compared.nodes:
        click.echo("every agent seems silent: is the clock of this machine right?", err=True)


def _rows(compared: Comparison, *, everywhere: bool, wide: bool) -> Iterator[list[Cell]]:
    if compared.silent:
        names = sorted(compared.silent)
        shown = len(names) if wide else 3
        yield [
            difference_cell("silent"),
            *(["-"] * everywhere),
            "-",
            str(len(names)),
            nodes_text(names, len(names), shown),
        ]
    for difference, key, nodes in compared.sorted():
        status = compared.images.get(key)
        image, namespace = (status.image, status.key.namespace) if status else (f"line {key}", "-")
        which = nodes_text(nodes, len(nodes), len(nodes) if wide else 3) if nodes else "-"
        yield [difference_cell(difference), *([namespace] * everywhere), image, str(len(nodes)), which]


def difference_cell(difference: Difference) -> Styled:
    """Its word in its colour."""
    return Styled(difference, _COLOURS.get(difference, "red"))


def _as_object(compared: Comparison) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for difference, key, nodes in compared.sorted():
        status = compared.images.get(key)
        named = {"namespace": status.key.namespace, "name": status.key.name, "image": status.image} if status else {}
        found.append({"difference": difference, **(named or {"line": key}), "nodes": nodes})
    silent = [
        {"node": node, **({"seenAt": format_time(seen)} if seen is not None else {})}
        for node, seen in sorted(compared.silent.items())
    ]
    return {"nodes": compared.nodes, "lines": compared.lines, "differences": found, "silent": silent}
