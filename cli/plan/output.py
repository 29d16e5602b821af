"""Print a plan: tables for people, one document for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import click

from cli.output import OutputFormat, print_checks, print_object, print_table
from cli.plan.run import Outcome, Planned
from warmhook.checks import named
from warmhook.preview import ImagePreview, NodePreview
from warmhook.sizes import format_bytes

_FEW: Final = 8
"""So many nodes are named without `-o wide`."""
_FROM: Final = {
    "Peers": "{readers} from the registry, others from nodes",
    "SourceIsRegistry": "registry",
    "TooFewNodes": "registry",
    "DirectIsFast": "registry",
    "": "",
}


def print_plan(outcome: Outcome, output: OutputFormat) -> None:
    """Print it in the format that was asked for."""
    if output in ("json", "yaml"):
        print_object(_object(outcome), output)
        return
    for number, planned in enumerate(outcome.objects):
        if number:
            click.echo()
        _print_planned(planned, wide=output == "wide")
    if outcome.nodes and (output == "wide" or len(outcome.nodes) <= _FEW):
        click.echo()
        _print_nodes(outcome.nodes)
    if outcome.checks:
        click.echo()
        print_checks(outcome.checks)


def _print_planned(planned: Planned, *, wide: bool) -> None:
    click.echo(click.style(f"{planned.kind} {planned.key}: {planned.state}", bold=True))
    shown = planned.preview
    if shown is not None:
        few = wide or len(shown.selected) <= _FEW
        names = named(shown.selected, len(shown.selected) if few else _FEW // 2)
        if names:
            click.echo(f"nodes: {names}")
        for title, some in (("added", shown.nodes_added), ("removed", shown.nodes_removed)):
            if some:
                click.echo(f"nodes {title}: {named(some, len(some) if wide else _FEW)}")
        if shown.images:
            columns = ["IMAGE", "CHANGE", "NODES", "PRESENT", "SIZE", "TO PULL", "TIME", "FROM"]
            print_table([*columns, *(["WARMIMAGE"] if wide else [])], _image_rows(shown.images, wide=wide))
        else:
            click.echo("no image yet: pushes and Pods bring them")
    print_checks(planned.checks)


def _image_rows(images: Iterable[ImagePreview], *, wide: bool) -> Iterator[list[str]]:
    for image in images:
        pulling, known = len(image.pulling), image.size_bytes
        removed = image.change == "removed"
        yield [
            image.image,
            image.change,
            "?" if image.pods_unknown else str(len(image.nodes)),
            "" if removed else str(len(image.present)),
            _size(known),
            "" if removed else "0" if not pulling else _size(known * pulling),
            f"about {_seconds(image.seconds)}" if image.seconds else "",
            "" if removed or not pulling else _FROM[image.outcome].format(readers=image.readers),
            *([str(image.warmimage)] if wide else []),
        ]


def _print_nodes(nodes: Sequence[NodePreview]) -> None:
    columns = ["NODE", "IMAGES", "AFTER", "PULLS", "TO PULL", "ON DISK", "FREE AT MOST", "AGENT"]
    print_table(columns, map(_node_row, nodes))


def _node_row(node: NodePreview) -> list[str]:
    facts = node.facts
    free = format_bytes(facts.usable_bytes) if facts.disk_bytes else "unknown"
    return [
        facts.node.name,
        str(node.lines_before),
        str(node.lines_after),
        str(node.pulls),
        _sum(node, node.pull_bytes),
        _sum(node, node.needed_bytes, "about "),
        "DiskPressure" if facts.disk_pressure else free,
        "" if facts.report is not None else "none",
    ]


def _sum(node: NodePreview, size_bytes: float, about: str = "") -> str:
    """The bytes of all pulls, as far as their sizes are known."""
    known = [f"{about}{format_bytes(size_bytes)}"] if size_bytes else []
    unknown = [f"{node.unknown_sizes} unknown"] if node.unknown_sizes else []
    return " and ".join(known + unknown) or "0"


def _size(size_bytes: int) -> str:
    return format_bytes(size_bytes) if size_bytes else "unknown"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds < 120 else f"{seconds / 60:.0f}m"


def _object(outcome: Outcome) -> dict[str, Any]:
    return {
        "objects": [_planned_object(planned) for planned in outcome.objects],
        "nodes": [_node_object(node) for node in outcome.nodes],
        "checks": [check.as_object() for check in outcome.checks],
    }


def _planned_object(planned: Planned) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": planned.kind,
        "namespace": planned.key.namespace,
        "name": planned.key.name,
        "change": planned.state,
    }
    if (shown := planned.preview) is not None:
        found |= {
            "nodes": sorted(shown.selected),
            "nodesAdded": sorted(shown.nodes_added),
            "nodesRemoved": sorted(shown.nodes_removed),
            "images": [_image_object(image) for image in shown.images],
        }
    return found | {"checks": [check.as_object() for check in planned.checks]}


def _image_object(image: ImagePreview) -> dict[str, Any]:
    known = bool(image.size_bytes)
    return _known(
        {
            "warmimage": str(image.warmimage),
            "image": image.image,
            "change": image.change,
            "nodes": None if image.pods_unknown else len(image.nodes),
            "present": len(image.present),
            "otherPlatform": len(image.lacking),
            "pulling": sorted(image.pulling),
            "sizeBytes": image.size_bytes if known else None,
            "pullBytes": image.size_bytes * len(image.pulling) if known else None,
            "distribution": image.outcome or None,
            "registryReaders": image.readers if image.outcome else None,
            "estimatedSeconds": round(image.seconds, 1) if image.seconds else None,
        }
    )


def _node_object(node: NodePreview) -> dict[str, Any]:
    facts = node.facts
    return _known(
        {
            "name": facts.node.name,
            "imagesBefore": node.lines_before,
            "imagesAfter": node.lines_after,
            "pulls": node.pulls,
            "pullBytes": node.pull_bytes,
            "unknownSizes": node.unknown_sizes,
            "estimatedDiskBytes": round(node.needed_bytes),
            "freeBytesAtMost": round(facts.usable_bytes) if facts.disk_bytes else None,
            "diskPressure": facts.disk_pressure,
            "withoutRoom": sorted(map(str, node.refused)),
            "hasReport": facts.report is not None,
        }
    )


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without those that are unknown."""
    return {name: value for name, value in fields.items() if value is not None}
