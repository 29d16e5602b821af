"""Define the commands that run a cluster on this machine: `warmhook demo` and `warmhook devcluster`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.errors import needing_dev_extra


@click.command("demo")
@click.option("--nodes", type=click.IntRange(1, 50), default=3, show_default=True, help="How many nodes.")
@click.option(
    "--runtime",
    type=click.Choice(["embedded", "containerd"]),
    default="embedded",
    show_default=True,
    help="What holds the images: a small stand-in, or a containerd for each node (needs root).",
)
@click.option("--serve", is_flag=True, help="Keep everything up after the push, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else.")
@click.option(
    "--timeout", type=click.IntRange(1), default=15, show_default=True, help="Seconds that nodes get after the push."
)
@click.option("--stop-agent", metavar="NODE", default="", hidden=True)
def demo(nodes: int, runtime: str, serve: bool, as_json: bool, timeout: int, stop_agent: str) -> int:
    """See a push become an image on every node, here and now.

    Starts an API server, a registry, nodes and Warmhook's programs on this machine, pushes an image and shows how the
    nodes warm up. Needs no root, no Docker and no cluster. Exit status 0 only if every node is warm.
    """
    # Imported here: the image does not hold what these run, and no other command should wait for a terminal library.
    with needing_dev_extra():
        from cli.demo_run.scenario import Demonstration, run_demo

    return run_demo(
        Demonstration(
            nodes, "containerd" if runtime == "containerd" else "embedded", serve, as_json, timeout, stop_agent
        )
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
    with needing_dev_extra():
        from cli.demo_run.serve import run_devcluster

    return run_devcluster(port, nodes, kubeconfig)
