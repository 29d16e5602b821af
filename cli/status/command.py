"""Show how far images have come on nodes: `warmhook status`."""

from __future__ import annotations

import time
from typing import Any

import click

from cli.cluster import Access, Cluster, cluster_options, with_cluster
from cli.completion import complete_target
from cli.durations import DURATION
from cli.errors import Unusable
from cli.output import OutputFormat, output_option
from cli.target import Target, read_target

_TIMEOUT_DEFAULT = "10m"


@click.command("status")
@click.argument("target", metavar="[IMAGE|NODE]", required=False, shell_complete=complete_target)
@click.option("-w", "--wait", is_flag=True, help="Wait until every reachable node has the image.")
@click.option(
    "--timeout",
    type=DURATION,
    default=_TIMEOUT_DEFAULT,
    show_default=True,
    help="How long to wait, such as 90s or 1h; 0 has no limit.",
)
@output_option
@cluster_options
def status(target: str | None, wait: bool, timeout: int, output: OutputFormat, **options: Any) -> int:
    """Show how far images have come on nodes.

    Without an argument: the WarmImages of the namespace, and what is failing. With an image, with or without registry,
    tag and digest: its WarmImages; -o wide adds the nodes. With a node: its images. A name alone is that of a
    WarmImage, else of an image, else of a node; warmimage/NAME, image/NAME and node/NAME say which.

    With --wait the exit status is 0 when every reachable node has the image, and 1 when nodes failed or the time is
    over. It also waits for an image that no registry has announced so far.
    """
    access, named = Access(**options), read_target(target) if target is not None else None
    if wait:
        return _wait(access, named, timeout, output)
    with_cluster(access, lambda cluster: show(cluster, named, output))
    return 0


def _wait(access: Access, target: Target | None, timeout_seconds: int, output: OutputFormat) -> int:
    # Imported here, as below: what speaks to a cluster costs more than the other commands need to start.
    from cli.status.wait import SignedOut, wait_for_image

    if target is None or target.kind in ("node", "warmimage"):
        raise Unusable(
            "--wait waits for an image: name it with its registry and tag, such as registry.example.com/a/b:1"
        )
    query, until = target.query(), time.monotonic() + timeout_seconds
    if query.path:
        # What ends so could be another image, and Docker Hub is seldom meant.
        raise Unusable(f"--wait: write {target.name!r} with its registry, such as docker.io/{target.name}")

    async def work(cluster: Cluster) -> int:
        left = max(1.0, until - time.monotonic()) if timeout_seconds else 0.0
        return await wait_for_image(cluster, query, left, output)

    while True:
        try:
            return with_cluster(access, work)
        except SignedOut:
            # Plugins of clouds give tokens for some minutes. Each round had an answer, so this ends.
            continue


async def show(cluster: Cluster, target: Target | None, output: OutputFormat) -> None:
    """Print what `target` names, in that format. Raises `Unusable`, `Failed` and `KubernetesError`."""
    from cli.lookup import look_up
    from cli.status.image import show_image
    from cli.status.images import show_images
    from cli.status.node import show_node

    found = await look_up(cluster, target)
    if found.node is not None:
        show_node(cluster, found.node, found.known, output)
    elif target is not None and len(found.images) == 1:
        await show_image(cluster, found.images[0], output)
    else:
        show_images(cluster, found.images, output)
