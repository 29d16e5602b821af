"""Define the commands that run a cluster on this machine: `warmhook demo` and `warmhook devcluster`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.errors import needing_extra


@click.command("demo")
@click.option(
    "--nodes",
    type=click.IntRange(1, 50),
    default=None,
    show_default="3, or 5 with --peers",
    help="How many nodes.",
)
@click.option("--peers", is_flag=True, help="Show how nodes get a larger image from each other (needs root).")
@click.option(
    "--runtime",
    type=click.Choice(["embedded", "containerd"]),
    default=None,
    show_default="embedded, or containerd with --peers",
    help="What holds the images: a small stand-in, or a containerd for each node (needs root).",
)
@click.option("--serve", is_flag=True, help="Keep everything up after the push, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.IntRange(1),
    default=None,
    show_default="15, or 60 with --peers",
    help="Seconds that nodes get after the push.",
)
@click.option("--stop-agent", metavar="NODE", default="", hidden=True)
def demo(**given: Any) -> int:
    """See a push become an image on every node, here and now.

    Starts an API server, a registry, nodes and Warmhook's programs on this machine, pushes an image and shows how the
    nodes warm up. Needs no root, no Docker and no cluster. Exit status 0 only if every node is warm.
    """
    # Imported here: the image does not hold what these run, and no other command should wait for a terminal library.
    with needing_extra("dev,programs"):
        from cli.demo_run.scenario import WITH_PEERS, Demonstration, run_demo

    defaults: Mapping[str, Any] = WITH_PEERS if given["peers"] else {}
    return run_demo(
        Demonstration(**{**defaults, **{name: value for name, value in given.items() if value is not None}})
    )


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
    with needing_extra("dev,programs"):
        from cli.demo_run.serve import run_devcluster

    return run_devcluster(port, nodes, kubeconfig)
