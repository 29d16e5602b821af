"""Explain why an image is, or is not, on a node: `warmhook explain IMAGE NODE`."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from cli.cluster import Access, Cluster, cluster_options, with_cluster
from cli.errors import Unusable
from cli.explain_facts import Question, find_image, gather
from cli.output import OutputFormat, output_option, print_checks, print_object, print_table
from warmhook.explain import Explanation, explain
from warmhook.images import NotAReference, Reference, parse_reference

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


@click.command("explain")
@click.argument("image")
@click.argument("node")
@cluster_options
@click.option(
    "--agents-namespace",
    default="warmhook-agents",
    show_default=True,
    metavar="NAME",
    help="Where the agents are installed.",
)
@output_option
def explain_command(image: str, node: str, agents_namespace: str, output: OutputFormat, **options: Any) -> int:
    """Say why IMAGE is, or is not, on NODE.

    Goes through the whole chain: installation, delivery, policy, rule, WarmImage, placement, line, agent, report and
    runtime. The last lines name the first thing that is wrong, and the command that mends it. IMAGE is a reference as
    a Pod has it, or the name of a WarmImage. Looks into all namespaces without -n. Exit status 0 if the image is warm
    on the node, 1 if it is not.
    """
    access = Access(**options)
    if not _NAME.fullmatch(node):
        raise Unusable(f"{node!r} is no name of a node; kubectl get nodes lists them")

    async def work(cluster: Cluster) -> Explanation:
        question = Question(node, access.namespace or "", agents_namespace, fallback=cluster.namespace)
        asked = await _asked(cluster, question, image)
        return explain(await gather(cluster, question, asked))

    found = with_cluster(access, work)
    _show(found, output)
    return 0 if found.warm else 1


async def _asked(cluster: Cluster, question: Question, image: str) -> Reference:
    """The image that is meant. Raises `Unusable`."""
    if _NAME.fullmatch(image) and (found := await find_image(cluster, question, image)) is not None:
        return found
    try:
        return parse_reference(image, default_tag="latest").as_run
    except NotAReference as error:
        raise Unusable(f"{error}; name an image as a Pod does, or a WarmImage") from None


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
    others = f" ({found.others} more WarmImages have the image)" if found.others else ""
    click.echo(f"\n{found.image} is {'warm' if found.warm else 'not warm'} on {found.node}{others}")
    if (culprit := found.culprit) is not None:
        print_checks([culprit])
