"""Complete words in a shell: `warmhook completion`, and names from the cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from cli.cluster import Access, Cluster, with_cluster

_SECONDS: Final = 0.7
"""A person waits for the list."""
_FILES: Final = 0
_NO_FILES: Final = 4
"""ShellCompDirectiveDefault and ShellCompDirectiveNoFileComp of Cobra, the library of kubectl."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete warmhook.

    bash, in ~/.bashrc: eval "$(warmhook completion bash)". zsh, in ~/.zshrc: eval "$(warmhook completion zsh)". fish:
    warmhook completion fish > ~/.config/fish/completions/warmhook.fish. `kubectl warm` is completed by the program
    kubectl_complete-warm, which kubectl looks for on the PATH.
    """
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - the choices are those of click
    click.echo(made(context.find_root().command, {}, "warmhook", "_WARMHOOK_COMPLETE").source())


def complete_target(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of WarmImages and nodes; nothing if the cluster does not answer within a second."""
    kind, slash, _ = incomplete.partition("/")
    names = _known(context)
    found = [f"{kind}/{name}" if slash else name for kind_of, name in names if not slash or kind_of == kind]
    return [name for name in found if name.startswith(incomplete)]


def complete_node(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of nodes; nothing if the cluster does not answer within a second."""
    return [name for kind, name in _known(context) if kind == "node" and name.startswith(incomplete)]


def _known(context: click.Context) -> list[tuple[str, str]]:
    """Kind and name of each WarmImage and node of the cluster that the options before select."""
    given = context.params
    access = Access(
        given.get("kubeconfig"),
        given.get("context"),
        given.get("namespace"),
        bool(given.get("all_namespaces")),
        str(given.get("system_namespace")),
    )
    try:
        return with_cluster(access, _names)
    except (click.ClickException, TimeoutError, OSError):
        return []


async def _names(cluster: Cluster) -> list[tuple[str, str]]:
    """Kind and name."""
    from adapters.kubernetes import paths

    async def listed(kind: str, path: str) -> list[tuple[str, str]]:
        found = await cluster.kubernetes.list(path, metadata_only=True)
        return [(kind, obj["metadata"]["name"]) for obj in found.items]

    where = paths.warmimages_in(cluster.namespace) if cluster.namespace else paths.warmimages()
    wanted = (listed("warmimage", where), listed("node", paths.NODES))
    tasks = [asyncio.create_task(each) for each in wanted]
    await asyncio.wait(tasks, timeout=_SECONDS)
    for task in tasks:
        task.cancel()
    ended = [task for task in tasks if task.done() and not task.cancelled() and task.exception() is None]
    return [name for task in ended for name in task.result()]


def kubectl_complete(arguments: Sequence[str] | None = None) -> int:
    """Print the words that may come next, as kubectl expects it of `kubectl_complete-warm`; the last one is begun.

    https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/
    """
    from cli.main import warmhook

    *words, incomplete = (sys.argv[1:] if arguments is None else arguments) or [""]
    complete = ShellComplete(warmhook, {}, "kubectl warm", "")
    found = complete.get_completions(words, incomplete)
    for item in found:
        if item.type == "plain":
            click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    click.echo(f":{_NO_FILES if all(item.type == 'plain' for item in found) else _FILES}")
    return 0
