"""Wait until the nodes have an image, and say how far they are: `warmhook status --wait`."""

from __future__ import annotations

import asyncio
import shutil
import sys
from typing import Final, Self

import click

from adapters.clock import Backoff
from adapters.kubernetes import paths
from adapters.kubernetes.errors import KubernetesError, Refused
from adapters.kubernetes.reflector import ListWatch, Reflector
from cli.cluster import Cluster
from cli.errors import Failed
from cli.output import OutputFormat, is_live, print_object, printable
from cli.status.images import nodes_text
from warmhook.image_query import ImageQuery
from warmhook.image_status import ImageStatus, read_image_status
from warmhook.image_wait import WaitState, judge_wait
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey

_UNAUTHORIZED: Final = 401


class SignedOut(Exception):
    """The API server takes credentials no more that it took before: a plugin of the kubeconfig may have others."""


async def wait_for_image(cluster: Cluster, query: ImageQuery, seconds: float, output: OutputFormat) -> int:
    """Wait for so many seconds, 0: without a limit. Exit status 0 when every reachable node is warm.

    Raises `Failed` if that cannot be, or not in time, `KubernetesError`, and `SignedOut`.
    """
    where = f"namespace {cluster.namespace}" if cluster.namespace else "any namespace"
    followed = _Followed(query)
    state = WaitState("nothing was read")
    with _Progress(quiet=output in ("json", "yaml")) as progress:
        following = asyncio.create_task(_follow(cluster, followed), name="follow")
        try:
            async with asyncio.timeout(seconds or None):
                while not state.over:
                    await followed.news(following)
                    if followed.problem is not None:
                        progress.show(f"{followed.problem}; trying again")
                        continue
                    state = judge_wait(query, followed.found.values(), where)
                    if state.warm or not state.over:
                        # Otherwise it is the error.
                        progress.show(state.line)
        except TimeoutError:
            pass
        finally:
            following.cancel()
            await asyncio.wait([following])
    if output in ("json", "yaml"):
        print_object({"warm": state.warm, "warmImages": [each.as_object() for each in followed.named()]}, output)
    if state.warm:
        return 0
    raise Failed(_why(followed, state))


class _Followed:
    """The WarmImages of one repository and tag, as the API server has them."""

    def __init__(self, query: ImageQuery) -> None:
        self._query = query
        self._changed = asyncio.Event()
        self.found: dict[ObjectKey, ImageStatus] = {}
        self.problem: KubernetesError | None = None
        """Why nothing is read at the moment."""

    def named(self) -> list[ImageStatus]:
        """By namespace and name."""
        return sorted(self.found.values(), key=lambda each: each.key)

    async def news(self, following: asyncio.Task[None]) -> None:
        """Wait for the next change. Raises what ended the task that follows."""
        waiting = asyncio.create_task(self._changed.wait(), name="news")
        try:
            await asyncio.wait((waiting, following), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if following.done():
            following.result()
        self._changed.clear()

    # --- what a Reflector calls ---

    def replace(self, _kind: str, objects: list[Object]) -> None:
        self.found = {}
        for obj in objects:
            self._take(obj)
        self._changed.set()

    def update(self, _kind: str, obj: Object) -> None:
        self._take(obj)
        self._changed.set()

    def delete(self, _kind: str, obj: Object) -> None:
        self.found.pop(read_image_status(obj).key, None)
        self._changed.set()

    def failed(self, problem: KubernetesError, *, reached: bool) -> None:
        if reached and problem.status == _UNAUTHORIZED:
            raise SignedOut from problem
        # Nobody should wait for a server that was never there, or for a right.
        if isinstance(problem, Refused) or not reached:
            raise problem
        self.problem = problem
        self._changed.set()

    def recovered(self) -> None:
        if self.problem is not None:
            self.problem = None
            self._changed.set()

    def keep(self, obj: Object) -> Object:
        """Only what is followed is kept."""
        status = read_image_status(obj)
        return {"status": status} if self._query.names(status) else {"other": status.key}

    def _take(self, kept: Object) -> None:
        if "status" in kept:
            self.found[kept["status"].key] = kept["status"]
        else:
            self.found.pop(kept["other"], None)


async def _follow(cluster: Cluster, followed: _Followed) -> None:
    """Keep `followed` up to date for ever. Raises `Refused` if the API server does not let this user read."""
    path = paths.warmimages_in(cluster.namespace) if cluster.namespace else paths.warmimages()
    what = ListWatch("WarmImage", path, keep=followed.keep)
    backoff = Backoff(cluster.clock, first_seconds=0.2, longest_seconds=10.0)
    await Reflector(cluster.kubernetes, what, followed, cluster.clock, followed).run(backoff)


def _why(followed: _Followed, state: WaitState) -> str:
    """The state, and below it the nodes that failed with their reasons."""
    late = "" if state.over else "not warm in time: "
    lines = [
        f"  {each.reason} on {nodes_text(each.nodes, each.count, shown=10)}: {each.message}"
        for status in followed.named()
        for each in status.failing
    ]
    return "\n".join(map(printable, [late + state.line, *lines]))


class _Progress:
    """Lines of progress: one that is rewritten on a terminal, one for each change elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._live, self._last = quiet, is_live(), ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._last:
            click.echo()

    def show(self, line: str) -> None:
        """Show where it is now."""
        line = printable(line)
        if self._quiet or line == self._last:
            return
        self._last = line
        if self._live:
            width = shutil.get_terminal_size().columns
            click.echo(f"\r{line[: width - 1]:<{width - 1}}", nl=False)
        else:
            click.echo(line)
        sys.stdout.flush()
