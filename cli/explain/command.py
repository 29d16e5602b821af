"""Explain why an image is, or is not, on a node: `warmhook explain IMAGE NODE`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from cli.cluster import Access, Cluster, agents_namespace_option, cluster_options, with_cluster
from cli.completion import complete_node, complete_target
from cli.errors import Unusable
from cli.output import OutputFormat, output_option, print_checks, print_object, print_table
from cli.target import Target, is_node_name, read_target
from warmhook.images import NotAReference, Reference, parse_reference

# Imported only if the command runs: help and completion should not wait for it.
if TYPE_CHECKING:
    from warmhook.explain import Explanation
    from warmhook.image_status import ImageStatus

_SHOWN: Final = 5


@click.command("explain")
@click.argument("image", shell_complete=complete_target)
@click.argument("node", shell_complete=complete_node)
@agents_namespace_option
@output_option
@cluster_options
def explain_command(image: str, node: str, agents_namespace: str, output: OutputFormat, **options: Any) -> int:
    """Say why IMAGE is, or is not, on NODE.

    Goes through the whole chain: installation, delivery, policy, rule, WarmImage, placement, line, agent, report and
    runtime. The last lines name the first thing that is wrong, and the command that mends it. IMAGE is an image, with
    or without registry, or warmimage/NAME. Looks into all namespaces that you may read, or into the one of -n. Exit
    status 0 if the image is warm on the node, 1 if it is not.
    """
    access, name = Access(**options), node.removeprefix("node/")
    if not is_node_name(name):
        raise Unusable(f"{node!r} is no name of a node; kubectl get nodes lists them")
    target = read_target(image)
    if target.kind == "node":
        raise Unusable(f"{image!r} is a node; name the image first, then the node")

    async def work(cluster: Cluster) -> Explanation:
        from cli.explain.facts import Question, gather
        from warmhook.explain import explain

        asked, named = await read_asked(cluster, access.namespace or "", target)
        question = Question(name, access.namespace or "", agents_namespace, cluster.namespace, named)
        return explain(await gather(cluster, question, asked))

    found = with_cluster(access, work)
    _show(found, output)
    return 0 if found.warm else 1


async def read_asked(cluster: Cluster, namespace: str, target: Target) -> tuple[Reference, str]:
    """The image that is meant: as it is written, or that of the WarmImage whose name follows. Raises `Unusable`."""
    written = _reference(target.name) if target.kind != "warmimage" else None
    if written is not None and target.name.lower().startswith(f"{written.host.lower()}/"):
        return written, ""
    found = target.find(await _known(cluster, namespace))
    images = sorted({each.reference for each in found if each.reference is not None})
    if len(images) > 1:
        listed = ", ".join(map(str, images[:_SHOWN])) + (", ..." if len(images) > _SHOWN else "")
        raise Unusable(f"{target.name!r} may be one of {listed}; name one of them")
    if images:
        return images[0], target.name if all(each.key.name == target.name for each in found) else ""
    if written is None:
        raise Unusable(f"there is no WarmImage {target.name!r}; name the image as a Pod does")
    return written, ""


async def _known(cluster: Cluster, namespace: str) -> list[ImageStatus]:
    """The WarmImages of the namespace; empty: of all, or of that of the context if not all may be read."""
    from adapters.kubernetes.errors import Refused
    from cli.images import read_images

    for each in dict.fromkeys((namespace, namespace or cluster.namespace)):
        try:
            return await read_images(replace(cluster, namespace=each))
        except Refused:
            continue
    return []


def _reference(text: str) -> Reference:
    """The image as it is written. Raises `Unusable`."""
    try:
        return parse_reference(text, default_tag="latest").as_run
    except NotAReference as error:
        raise Unusable(f"{error}; name an image as a Pod does, or warmimage/NAME") from None


def _show(found: Explanation, output: OutputFormat) -> None:
    if output in ("json", "yaml"):
        print_object(found.as_object(), output)
        return
    if output == "wide":
        columns = ("SUBJECT", "STATE", "REASON", "MESSAGE", "MEND")
        rows = ((each.subject, each.state, each.reason, each.message, each.mend) for each in found.checks)
        print_table(columns, rows)
    else:
        print_checks(found.checks)
    others = f" ({found.others} more WarmImage{'s' * (found.others > 1)} of the image)" if found.others else ""
    click.echo(f"\n{found.image} is {'warm' if found.warm else 'not warm'} on {found.node}{others}")
    if (culprit := found.culprit) is not None:
        print_checks([culprit])
