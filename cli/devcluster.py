"""Run a cluster on this machine to try policies, until Ctrl-C: `warmhook devcluster`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.errors import needing_dev_extra


@click.command("devcluster")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Of the API server, on 127.0.0.1; 0 is a free one.",
)
@click.option("--nodes", type=click.IntRange(1, 50), default=3, show_default=True, help="How many nodes.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="File to write; it is removed at the end.")
def devcluster(port: int, nodes: int, kubeconfig: Path | None) -> int:
    """Run a small cluster with Warmhook on this machine, until Ctrl-C.

    An API server with the CRDs, a registry, and nodes with a runtime and an agent each. What you apply with kubectl
    really warms these nodes. Needs no root, no Docker and no cluster.
    """
    # Imported here: the image does not hold the cluster, and no other command should wait for a terminal library.
    with needing_dev_extra():
        from cli.demo_run.serve import run_devcluster

    return run_devcluster(port, nodes, kubeconfig)
