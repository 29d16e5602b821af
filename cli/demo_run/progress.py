"""Find out which nodes are warm, from the reports that the agents write and from nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from adapters.kubernetes.errors import KubernetesError, NotFound, Unavailable
from adapters.kubernetes.paths import configmaps, warmimages
from adapters.kubernetes.spec import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage
from devcluster.cluster import Cluster
from devcluster.install import NAMESPACE
from warmhook.api import KIND_LABEL
from warmhook.node_lines import Line, line_of
from warmhook.node_report import LineState, Report, read_detail, read_report, report_name
from warmhook.ports import Object, Sleep
from warmhook.warmimages import ObjectKey

_POLL_SECONDS: Final = 0.1
_SLOW_POLL_SECONDS: Final = 0.5

State: TypeAlias = LineState | Literal["unreachable"]


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """How far one node has come with one image."""

    node: str
    state: State = "waiting"
    seconds: float | None = None
    """From the webhook's 202 to the report that lists the line; `None` while it is not warm."""
    reason: str = ""
    """Why it will not become warm."""

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected of this node."""
        return self.state == "warm" or bool(self.reason)


async def find_line(cluster: Cluster, key: ObjectKey) -> Line | None:
    """The line that this WarmImage puts on nodes; `None` if there is none. Raises `KubernetesError`."""
    try:
        return line_of(read_warmimage(await cluster.kubernetes.get(warmimages(key))))
    except NotFound:
        return None


async def read_reports(cluster: Cluster) -> Mapping[str, Report]:
    """Every node's report, by node. Raises `KubernetesError`."""
    listing = await cluster.kubernetes.list(configmaps(NAMESPACE), labels=f"{KIND_LABEL}=report", metadata_only=True)
    reports = [read_report(item["metadata"]) for item in listing.items]
    return {report.node: report for report in reports if report.node}


async def follow_line(
    cluster: Cluster, line: Line, *, since: float, seconds: float, monotonic: Callable[[], float], sleep: Sleep
) -> AsyncGenerator[list[NodeProgress], None]:
    """Every node's progress, each time it was looked at, until all are over; `seconds` after `since` all are.

    Raises `ProgramFailed` if a program ends that everything depends on.
    """
    nodes = {name: NodeProgress(name) for name in cluster.nodes}
    reports: Mapping[str, Report] = {}
    while not all(progress.over for progress in nodes.values()):
        cluster.check()
        with contextlib.suppress(Unavailable):
            # The line changes when the registry has answered.
            line = await find_line(cluster, line.warmimage) or line
            reports = await read_reports(cluster)
        passed = monotonic() - since
        for name, before in nodes.items():
            if not before.over:
                nodes[name] = await _judge(cluster, line, name, reports.get(name), passed, late=passed > seconds)
        yield list(nodes.values())
        await sleep(_POLL_SECONDS)


async def new_warm_lines(
    cluster: Cluster, known: set[tuple[str, str]], sleep: Sleep
) -> AsyncGenerator[tuple[str, str], None]:
    """Node and image, for ever, as more become warm than are `known` by node and version.

    Raises `ProgramFailed` if a program ends.
    """
    while True:
        cluster.check()
        for program in filter(None, map(cluster.ended_on, cluster.nodes)):
            raise program.failed(program.ended)
        # People try things here: even a deleted CRD or an image that cannot be read only means nothing to show.
        with contextlib.suppress(KubernetesError):
            reports = await read_reports(cluster)
            for line in _lines((await cluster.kubernetes.list(warmimages())).items):
                for name, report in sorted(reports.items()):
                    if line.version in report.warm and (name, line.version) not in known:
                        known.add((name, line.version))
                        yield name, line.image
        await sleep(_SLOW_POLL_SECONDS)


def _lines(objects: Sequence[Object]) -> Iterator[Line]:
    for item in objects:
        with contextlib.suppress(InvalidObject):
            yield line_of(read_warmimage(item))


async def _judge(
    cluster: Cluster, line: Line, name: str, report: Report | None, passed: float, *, late: bool
) -> NodeProgress:
    state = report.state(line.key, line.version) if report else "waiting"
    if state == "warm":
        return NodeProgress(name, "warm", round(passed, 2))
    if program := cluster.ended_on(name):
        part = "agent" if program is cluster.agents[name] else "runtime"
        return NodeProgress(name, "unreachable", reason=f"its {part} {program.ended}")
    if state == "failed":
        return NodeProgress(name, "failed", reason=await _why(cluster, line, name))
    if not late:
        return NodeProgress(name, state)
    silent = not (report and report.knows(line.key, line.version))
    hint = f"; its agent (process {cluster.agents[name].process.pid}) does not answer" if silent else ""
    return NodeProgress(name, state, reason=f"still {state} after {passed:.0f} s{hint}")


async def _why(cluster: Cluster, line: Line, name: str) -> str:
    try:
        report = await cluster.kubernetes.get(configmaps(NAMESPACE, report_name(name)))
    except KubernetesError as error:
        return str(error)
    reason, message = read_detail((report.get("data") or {}).get(line.key, "{}"))
    return f"{reason}: {message}" if message else reason
