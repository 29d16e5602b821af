"""Show and remove the pins of Warmhook on this node: `warmhook unpin`. Needs no API server."""

from __future__ import annotations

import asyncio

import click

from cli.errors import Failed, Unusable, needing_extra


@click.command("unpin")
@click.option(
    "--endpoint",
    envvar="CONTAINER_RUNTIME_ENDPOINT",
    default="unix:///run/containerd/containerd.sock",
    show_default=True,
    help="The socket of containerd. The variable CONTAINER_RUNTIME_ENDPOINT sets it as well.",
)
@click.option("--yes", is_flag=True, help="Remove the pins; without it they are only listed.")
def unpin(endpoint: str, yes: bool) -> None:
    """List the images that Warmhook has pinned on this node, and remove these pins with --yes.

    The images stay; the kubelet may remove them when the disk is full. Pins of others stay. An agent that still has
    lines with `pinned` pins their images again, so delete these lines or the agent first.
    """
    if not endpoint.startswith(("unix:///", "/")):
        raise Unusable(f"--endpoint {endpoint!r}: expected a socket such as unix:///run/containerd/containerd.sock")
    # Imported here: gRPC costs more than the other commands need to start.
    from warmhook.ports import NotContainerd, RuntimeUnreachable

    try:
        names = asyncio.run(_unpin(endpoint, yes))
    except NotContainerd as error:
        raise Failed(f"{error}: Warmhook pins nothing there") from None
    except RuntimeUnreachable as error:
        raise Failed(f"{error}: check that containerd is running, and run this as root on the node") from None
    for name in names:
        click.echo(name)
    done = "no longer pinned" if yes else "pinned by Warmhook; --yes removes the pins"
    click.echo(f"names: {len(names)}, {done}" if names else "no name is pinned by Warmhook", err=True)


async def _unpin(endpoint: str, remove: bool) -> list[str]:
    """The names that Warmhook had pinned."""
    with needing_extra("programs"):
        from adapters.containerd import open_containerd
    from warmhook.pins import UNPINNED, our_pins

    async with open_containerd(endpoint) as containerd:
        names = our_pins(await containerd.images())
        for name in names if remove else ():
            await containerd.set_labels(name, UNPINNED)
        return names
