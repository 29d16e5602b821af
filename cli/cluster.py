"""Connect a command to the cluster of the user's kubeconfig, and say in one line why it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from adapters.clock import Clock, real_clock
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, NotServed, Refused, Unavailable
from adapters.kubernetes.rest_config import BadKubeconfig
from adapters.kubernetes.transport import load_rest_config, open_pool
from cli.errors import Failed, Unusable
from handlers.reconcile.reader import Reader
from warmhook import __version__
from warmhook.ports import Transport

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Answer = TypeVar("_Answer")
_OPTIONS: Final = (
    click.option("--kubeconfig", envvar="KUBECONFIG", metavar="FILE", help="The kubeconfig, as for kubectl."),
    click.option("--context", metavar="NAME", help="A context of the kubeconfig; the current one by default."),
    click.option("-n", "--namespace", metavar="NAME", help="The namespace; that of the context by default."),
    click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces."),
    click.option(
        "--system-namespace",
        envvar="WARMHOOK_NAMESPACE",
        default="warmhook-system",
        show_default=True,
        metavar="NAME",
        help="Where Warmhook itself is installed.",
    ),
)


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
    except NotServed as error:
        raise Failed(f"{error}: is Warmhook installed in this cluster? See docs/install.md, or try --context") from None
    except Unavailable as error:
        raise Failed(f"{error}: check with kubectl cluster-info") from None
    except Refused as error:
        raise Failed(_refused(error)) from None
    except KubernetesError as error:
        raise Failed(str(error)) from None


async def _run(access: Access, work: Callable[[Cluster], Awaitable[_Answer]]) -> _Answer:
    config = await load_rest_config(access.kubeconfig, context=access.context)
    async with open_pool(config, f"warmhook-cli/{__version__}") as transport:
        kubernetes, clock = Kubernetes(transport), real_clock()
        namespace = "" if access.all_namespaces else access.namespace or config.namespace
        reader = Reader(kubernetes, access.system_namespace, clock)
        return await work(
            Cluster(kubernetes, reader, transport, clock, config.host, namespace, access.system_namespace)
        )


def _refused(error: Refused) -> str:
    if error.status == 401:
        return f"{error}: the credentials of the kubeconfig are not accepted; sign in again, or try --context"
    if error.status == 403:
        return f"{error}: ask an administrator for this right, or look into another namespace with -n"
    return str(error)
