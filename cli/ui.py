"""Define `warmhook ui`: the page of a cluster, served on this machine with the user's own kubeconfig."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from cli.cluster import Access, Cluster, cluster_options, with_cluster
from cli.errors import Failed, Unusable

if TYPE_CHECKING:
    from handlers.ui.page import Page

PORT: Final = 8081
_SECONDS: Final = 30.0
"""Until everything was listed for the first time."""
_CONNECTIONS: Final = 64


@click.command("ui")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    help="On 127.0.0.1; 0 is a free one.",
)
@click.option("--pool-label", default="", metavar="LABEL", help="The label of Nodes that names their pool.")
@cluster_options
def ui(port: int, pool_label: str, **options: Any) -> int:
    """Show images on nodes, pushes and deliveries as a page, until Ctrl-C.

    Only this machine reaches the page. It reads the cluster with your kubeconfig, and changes nothing: you need the
    rights to list and watch nodes, WarmImages of all namespaces, and the ConfigMaps of Warmhook's namespace.
    """
    access = Access(**options)
    query = f"?namespace={quote(access.namespace, safe='')}" if access.namespace else ""
    with_cluster(access, lambda cluster: _serve(cluster, port, pool_label, query))
    return 0


async def _serve(cluster: Cluster, port: int, pool_label: str, query: str) -> None:
    # Imported here: they take longer than other commands need.
    import sys

    from adapters.listener import open_listener_at
    from adapters.logs import set_up_logs
    from adapters.server import Server
    from adapters.signals import on_signals
    from adapters.tasks import in_background
    from handlers.serving.server import uvicorn_config
    from handlers.settings import Settings, UiSettings
    from handlers.ui.page import Page

    set_up_logs("console", sys.stderr)
    await _check_rights(cluster)
    try:
        listener = open_listener_at("127.0.0.1", port)
    except OSError as error:
        raise Unusable(f"--port {port}: {error.strerror}; choose another, or 0 for a free one") from None
    settings = Settings(
        serve=frozenset({"ui"}),
        namespace=cluster.system_namespace,
        ui=UiSettings(access="loopback", port=port, pool_label=pool_label),
    )
    page = Page(cluster.kubernetes, settings, cluster.clock)
    server = Server(uvicorn_config(page.application(), _CONNECTIONS))

    def stop() -> None:
        server.should_exit = True
        page.close()

    with closing(listener), on_signals(stop):
        async with in_background(page.run(), "page"):
            await _wait_until_listed(page, cluster)
            if not server.should_exit:
                _say_where(listener, query, cluster)
                await server.serve(sockets=[listener])


async def _check_rights(cluster: Cluster) -> None:
    """Raises `Failed` with what the user may not do."""
    from adapters.kubernetes.access_reviews import Action, review_own_access

    needed = [
        Action(verb, resource, group, namespace)
        for resource, group, namespace in (
            ("nodes", "", ""),
            ("warmimages", "warmhook.dev", ""),
            ("configmaps", "", cluster.system_namespace),
        )
        for verb in ("list", "watch")
    ]
    allowed = await asyncio.gather(*(review_own_access(cluster.kubernetes, action) for action in needed))
    lacking = [str(action) for action, may in zip(needed, allowed, strict=True) if not may]
    if lacking:
        raise Failed(
            f"you may not {', '.join(lacking)} ({cluster.origin}): ask an administrator for these rights, or for the "
            "page in the cluster (docs/ui.md), which shows each reader what that one may see"
        )


async def _wait_until_listed(page: Page, cluster: Cluster) -> None:
    try:
        async with asyncio.timeout(_SECONDS):
            await page.cache.listed.wait()
    except TimeoutError:
        click.echo(
            f"not everything was listed within {_SECONDS:g} seconds; the page says so ({cluster.origin})", err=True
        )


def _say_where(listener: socket.socket, query: str, cluster: Cluster) -> None:
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/ui/{query}"
    click.echo(f"{address}   (Ctrl-C ends it; {cluster.origin})")
