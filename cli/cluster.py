"""Connect a command to the cluster of the user's kubeconfig, and say in one line why it cannot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from adapters.kubernetes.errors import KubernetesError, NotServed, Refused, Unavailable
from adapters.kubernetes.rest_config import BadKubeconfig
from cli.errors import Failed, Unusable
from cli.output import printable
from warmhook import __version__

# Imported only if a command runs: help, completion and the other commands should not wait for them.
if TYPE_CHECKING:
    from adapters.clock import Clock
    from adapters.kubernetes.client import Kubernetes
    from handlers.reconcile.reader import Reader
    from warmhook.ports import Transport

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Answer = TypeVar("_Answer")
AGENTS: Final = "warmhook-agents"
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def _namespace(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """The name of a namespace: `..` would be taken out of a path with what stands before it."""
    if name and not _NAMESPACE.fullmatch(name):
        raise click.BadParameter(f"{name!r} is no name of a namespace")
    return name


_OPTIONS: Final = (
    click.option("--kubeconfig", envvar="KUBECONFIG", metavar="FILE", help="The kubeconfig, as for kubectl."),
    click.option("--context", metavar="NAME", help="A context of the kubeconfig; the current one by default."),
    click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        callback=_namespace,
        help="The namespace; that of the context by default.",
    ),
    click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces."),
    click.option(
        "--system-namespace",
        envvar="WARMHOOK_NAMESPACE",
        default="warmhook-system",
        show_default=True,
        metavar="NAME",
        callback=_namespace,
        help="Where Warmhook itself is installed.",
    ),
)


agents_namespace_option: Final = click.option(
    "--agents-namespace",
    default=AGENTS,
    show_default=True,
    metavar="NAME",
    callback=_namespace,
    help="Where the agents are installed.",
)
"""The command gets it as `agents_namespace`."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the options of a command select."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None
    all_namespaces: bool
    system_namespace: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster of a command."""

    kubernetes: Kubernetes
    reader: Reader
    transport: Transport
    clock: Clock
    host: str
    """The URL of the API server."""
    origin: str
    """For people: which context of which kubeconfig it is."""
    namespace: str
    """Of the objects to look at; empty: all namespaces."""
    system_namespace: str


def cluster_options(command: _Command) -> _Command:
    """Add the options that select cluster and namespace; the command gets them as `Access(**options)`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_cluster(access: Access, work: Callable[[Cluster], Awaitable[_Answer]]) -> _Answer:
    """Run `work` with a connection.

    Raises `Unusable` for a kubeconfig that cannot be used, and `Failed` where the API server does not do its part.
    """
    if access.namespace and access.all_namespaces:
        raise Unusable("-n and -A exclude each other")
    try:
        return asyncio.run(_run(access, work))
    except BadKubeconfig as error:
        raise Unusable(str(error)) from None


async def _run(access: Access, work: Callable[[Cluster], Awaitable[_Answer]]) -> _Answer:
    from adapters.clock import real_clock
    from adapters.kubernetes.client import Kubernetes
    from adapters.kubernetes.transport import load_rest_config, open_pool
    from handlers.reconcile.reader import Reader

    config = await load_rest_config(access.kubeconfig, context=access.context)
    async with open_pool(config, f"warmhook-cli/{__version__}") as transport:
        kubernetes, clock = Kubernetes(transport), real_clock()
        namespace = "" if access.all_namespaces else access.namespace or config.namespace
        reader, system = Reader(kubernetes, access.system_namespace, clock), access.system_namespace
        try:
            return await work(
                Cluster(kubernetes, reader, transport, clock, config.host, config.origin, namespace, system)
            )
        except KubernetesError as error:
            raise Failed(f"{_problem(error)} ({config.origin})") from None


def _problem(error: KubernetesError) -> str:
    """What went wrong and what to do, on one line: the API server is foreign too."""
    return printable(f"{error}{_advice(error)}")


def _advice(error: KubernetesError) -> str:
    if isinstance(error, NotServed):
        return ": is Warmhook installed in this cluster? See docs/install.md, or try --context"
    if isinstance(error, Unavailable):
        return ": check with kubectl cluster-info"
    if isinstance(error, Refused) and error.status == 401:
        return ": the credentials of the kubeconfig are not accepted; sign in again, or try --context"
    if isinstance(error, Refused) and error.status == 403:
        return ": ask an administrator for this right, or look into another namespace with -n"
    return ""
