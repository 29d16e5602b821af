"""Show what a policy or a WarmImage would bring to nodes, before it is applied: `warmhook plan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.cluster import Access, Cluster, cluster_options, with_cluster
from cli.errors import Unusable
from cli.output import OutputFormat, output_option

if TYPE_CHECKING:
    from cli.plan.run import Outcome


@click.command("plan")
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE", help="YAML; - is stdin.")
@click.option("--ask-registries", "ask", is_flag=True, help="Ask registries for sizes, without credentials.")
@cluster_options
@output_option
def plan(files: Sequence[str], ask: bool, output: OutputFormat, **options: Any) -> int:
    """Show which nodes and images a WarmPolicy or WarmImage would select, and what they would pull.

    Nothing is written: the API server checks the objects by a dry run. Sizes, free disk and times are estimates.

    Exit status 0 if all is well, 1 if an object is invalid or has no room, 2 for wrong arguments.
    """
    # Imported here: reading objects costs more than the other commands need to start.
    from cli.plan.manifest_files import read_manifests
    from cli.plan.output import print_plan
    from cli.plan.run import run_plan

    access = Access(**options)
    if access.all_namespaces:
        raise Unusable("-A: objects are in one namespace each; leave it out")

    async def run(cluster: Cluster) -> Outcome:
        manifests = read_manifests(files, cluster.namespace, given=access.namespace is not None)
        return await run_plan(cluster, manifests, ask=ask)

    outcome = with_cluster(access, run)
    print_plan(outcome, output)
    return 1 if outcome.has_problems else 0
