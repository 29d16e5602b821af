"""Check what is about to be applied: whether it selects nodes, and whether these have room for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from warmhook.checks import Check, named
from warmhook.limits import Tenancy
from warmhook.node_lines import MAX_LINES
from warmhook.preview import Facts, NodePreview, Preview
from warmhook.sizes import format_bytes
from warmhook.tenancy import problems
from warmhook.warmimages import WarmImage


def preview_checks(preview: Preview, facts: Facts, *, tenancy_unknown: str = "", asked: bool = False) -> list[Check]:
    """What is to be known of one policy or WarmImage.

    `tenancy_unknown` says why the limits could not be read; `asked` whether registries were asked for sizes.
    """
    return [
        _nodes(preview, facts),
        _tenancy(preview, facts.tenancy, tenancy_unknown),
        *_pods(preview),
        *_platforms(preview),
        _sizes(preview, asked=asked),
        *_agents(preview, facts),
    ]


def node_checks(nodes: Sequence[NodePreview]) -> list[Check]:
    """Whether all that is about to be applied has room on the nodes."""
    return [_disk(nodes), _lines(nodes)]


def _nodes(preview: Preview, facts: Facts) -> Check:
    wanted, selected = preview.wanted.template.nodes, len(preview.selected)
    known = {each.node.name for each in facts.nodes}
    if missing := set(wanted.names) - known:
        message = f"nodes.names: {named(missing)}: no such node"
        return Check("nodes", "wrong", message, "correct template.nodes.names, or register the node", "NoSuchNode")
    if not selected:
        message = f"none of {len(known)} nodes is selected"
        mend = "compare the selector with: kubectl get nodes --show-labels"
        return Check("nodes", "wrong", message, mend, "NoNodes")
    message = f"{selected} of {len(known)} nodes are selected"
    if wanted.limit is not None:
        message += f", of which each image gets {wanted.limit.of(selected)}"
    if wanted.running_pods is not None:
        message += "; those of them that run the Pods of runningPods count"
    if preview.nodes_added or preview.nodes_removed:
        message += f" ({len(preview.nodes_added)} more and {len(preview.nodes_removed)} fewer than now)"
    return Check("nodes", "ok", message)


def _tenancy(preview: Preview, tenancy: Tenancy, unknown: str) -> Check:
    namespace = preview.wanted.key.namespace
    limits = tenancy.of(namespace)
    each = (replace(warmimage, limits=limits) for warmimage in _all(preview))
    found = list(dict.fromkeys(problem for warmimage in each for problem in problems(warmimage)))
    refusal = f"not allowed, and left out: {named(found, 2)}" if found else ""
    if unknown:
        assumed = f"; by the defaults it is {refusal}" if refusal else ""
        return Check(
            "limits", "unknown", f"those of namespace {namespace} are not known: {unknown}{assumed}", "", "Unread"
        )
    if found:
        mend = "remove it, or ask the administrator for an entry in docs/tenancy.md"
        return Check("limits", "wrong", refusal, mend, "NotAllowed")
    narrowed = "; only nodes that the namespace may use" if limits.nodes is not None else ""
    room = f"{limits.room.lines} images on a node"
    return Check("limits", "ok", f"namespace {namespace} may have it, with at most {room}{narrowed}")


def _all(preview: Preview) -> Iterator[WarmImage]:
    # For rules about pushes alone, the template as an image of the policy would have it.
    yield from preview.wanted.after
    yield from preview.wanted.later


def _pods(preview: Preview) -> Iterator[Check]:
    unknown = [image.image for image in preview.images if image.pods_unknown]
    if unknown:
        message = f"the nodes of {named(unknown)} depend on Pods that could not be read"
        yield Check(
            "pods", "unknown", message, f"kubectl auth can-i list pods -n {preview.wanted.key.namespace}", "Unread"
        )


def _platforms(preview: Preview) -> Iterator[Check]:
    nowhere = [image.image for image in preview.images if image.nodes and image.lacking == image.nodes]
    some = [image for image in preview.images if image.lacking and image.lacking != image.nodes]
    if nowhere:
        message = f"no selected node has a platform of {named(nowhere)}"
        yield Check("platform", "wrong", message, "build the image for the nodes, or select others", "PlatformMissing")
    elif some:
        message = f"{some[0].image} is not built for the platform of {named(some[0].lacking)}"
        yield Check("platform", "waiting", message, "select nodes by kubernetes.io/arch", "PlatformMissing")


def _sizes(preview: Preview, *, asked: bool) -> Check:
    counted = [image for image in preview.images if image.change != "removed" and image.pulling]
    unknown = [image.image for image in counted if not image.size_bytes]
    if not counted:
        return Check("sizes", "ok", "nothing is to be pulled")
    if unknown:
        message = f"unknown for {len(unknown)} of {len(counted)} images: {named(unknown)}"
        mend = "" if asked else "--ask-registries asks the registries for them"
        return Check("sizes", "unknown", message, mend, "SizeUnknown")
    total = sum(image.size_bytes * len(image.pulling) for image in counted if image.change != "next push")
    return Check("sizes", "ok", f"all are known: {format_bytes(total)} over all nodes at once")


def _agents(preview: Preview, facts: Facts) -> Iterator[Check]:
    concerned = [each for each in facts.nodes if each.node.name in preview.selected]
    absent = [each.node.name for each in concerned if each.report is None]
    silent = [each.node.name for each in concerned if each.report is not None and not each.report.reachable(facts.now)]
    if absent or silent:
        message = f"{len(absent)} of the nodes have no agent, {len(silent)} have a silent one: {named(absent + silent)}"
        mend = "nothing is pulled there until it reports: warmhook doctor"
        yield Check("agents", "waiting", message, mend, "Unreachable")


def _disk(nodes: Sequence[NodePreview]) -> Check:
    full = [node for node in nodes if node.fits is False]
    unknown = [node for node in nodes if node.fits is None and node.pulls]
    if full:
        worst = full[0]
        pressed = sum(node.facts.disk_pressure for node in full)
        why = f"about {format_bytes(worst.needed_bytes)} needed, at most {format_bytes(worst.facts.usable_bytes)} free"
        why = "it has DiskPressure" if worst.facts.disk_pressure else why
        count = f"{len(full)} nodes have no room ({pressed} of them with DiskPressure)"
        message = f"{count}, such as {worst.facts.node.name}: {why}"
        mend = "free space there, select other nodes, or set template.nodes.limit"
        return Check("disk", "wrong", message, mend, "NotEnoughDisk")
    if unknown:
        message = (
            f"unknown for {len(unknown)} nodes, such as {unknown[0].facts.node.name}: no ephemeral-storage in status"
        )
        return Check("disk", "unknown", message, "", "DiskUnknown")
    pulling = [node for node in nodes if node.pulls]
    if not pulling:
        return Check("disk", "ok", "nothing is to be pulled")
    most = max(pulling, key=lambda node: node.needed_bytes)
    estimate = f"about {format_bytes(most.needed_bytes)} at most on a node, unpacked"
    if any(node.unknown_sizes for node in pulling):
        known = f"{estimate}, and " if most.pull_bytes else ""
        return Check("disk", "unknown", f"{known}images of unknown size", "", "SizeUnknown")
    return Check("disk", "ok", f"{estimate}, an estimate; nothing shows that a disk has no room")


def _lines(nodes: Sequence[NodePreview]) -> Check:
    over = [node for node in nodes if node.refused]
    if over:
        worst = max(over, key=lambda node: len(node.refused))
        message = (
            f"{len(over)} nodes have no room for all images, such as {worst.facts.node.name}:"
            f" {worst.lines_after} images, without room {named(map(str, worst.refused))}"
        )
        mend = f"a node takes {MAX_LINES} images, and fewer per namespace: remove some, or raise linesPerNode"
        return Check("lines", "wrong", message, mend, "TooManyLines")
    most = max((node.lines_after for node in nodes), default=0)
    return Check("lines", "ok", f"images on a node: at most {most} of {MAX_LINES}")
