"""Compare what nodes should hold with what they report: `warmhook diff`."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.cluster import Access, Cluster, cluster_options, with_cluster
from cli.completion import complete_target
from cli.errors import Failed, NotCompared
from cli.output import OutputFormat, output_option
from cli.target import Target, read_target

_SAME: Final = 0
_DIFFERENT: Final = 1


@click.command("diff")
@click.argument("target", metavar="[NODE|IMAGE]", required=False, shell_complete=complete_target)
@output_option
@cluster_options
def diff(target: str | None, output: OutputFormat, **options: Any) -> int:
    """Compare what nodes should hold with what they report.

    Without an argument: the WarmImages of the namespace, or with -A of all, on every node. The names are those of
    warmhook status. -o wide names all nodes.

    The exit status is 0 if all nodes hold what they should, 1 if some do not, and 2 after an error.
    """
    named = read_target(target) if target is not None else None
    try:
        return with_cluster(Access(**options), lambda cluster: compare(cluster, named, output))
    except Failed as error:
        raise NotCompared(error.message) from None


async def compare(cluster: Cluster, target: Target | None, output: OutputFormat) -> int:
    """Print the differences of what `target` names; the exit status. Raises as `look_up`."""
    # Imported here: what speaks to a cluster costs more than the other commands need to start.
    from cli.diff.nodes import compare_nodes, show_comparison
    from cli.lookup import look_up
    from cli.status.node import show_node_differences

    found = await look_up(cluster, target)
    if found.node is not None:
        same = show_node_differences(cluster, found.node, found.known, output)
    else:
        compared = await compare_nodes(cluster, found.images, everything=target is None and not cluster.namespace)
        show_comparison(cluster, compared, output)
        same = compared.same
    return _SAME if same else _DIFFERENT
