"""Run `warmhook demo`: start a cluster, push an image, and show the nodes until all of them have it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from adapters.kubernetes.paths import warmpolicies
from cli.demo_run.display import Display
from cli.demo_run.progress import NodeProgress, find_line, follow_line
from cli.demo_run.push import POLICY, curl_line, policy_object, push_image, send_webhook
from cli.demo_run.run import for_children, indented, program_commands, run_in_folder
from cli.demo_run.serve import keep_serving
from cli.demo_run.transfers import read_transfers
from cli.errors import Failed, Unusable
from devcluster import containerd
from devcluster.cluster import Cluster, Plan, RuntimeName
from devcluster.demo import open_demo_cluster
from warmhook.node_lines import Line
from warmhook.warmimages import ObjectKey, warmimage_name

_FIRST_TAG: Final = "v1"
_SECOND_TAG: Final = "v2"
_EMBEDDED: Final = "the embedded runtime has no content store"
_PEERS_NEED: Final = (
    "nodes get images from each other through the content store of a containerd each: install containerd, "
    "for example with apt-get install containerd, and run this as root"
)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """The options of the command."""

    nodes: int = 3
    runtime: RuntimeName = "embedded"
    peers: bool = False
    """Whether nodes get a larger image from each other."""
    serve: bool = False
    as_json: bool = False
    timeout_seconds: int = 15
    stop_agent: str = ""
    """Of this node, before the push."""


WITH_PEERS: Final[Mapping[str, Any]] = {"nodes": 5, "runtime": "containerd", "timeout_seconds": 60}
"""The defaults of a demonstration of peers."""


@dataclass(slots=True)
class _Outcome:
    """What is known so far; what `--json` prints."""

    image: str = ""
    nodes: list[NodeProgress] = field(default_factory=list)
    reason: str = "interrupted"
    more: dict[str, Any] = field(default_factory=dict)
    """Of the options `--serve` and `--peers`."""
    printed: bool = False

    @property
    def ok(self) -> bool:
        return bool(self.nodes) and all(progress.state == "warm" for progress in self.nodes)

    def print(self) -> None:
        """Once, whatever happens later."""
        if not self.printed:
            self.printed = True
            seconds = max((progress.seconds or 0 for progress in self.nodes), default=0) if self.ok else None
            nodes = list(map(asdict, self.nodes))
            fields = {"ok": self.ok, "reason": self.reason, "image": self.image, "seconds": seconds, "nodes": nodes}
            click.echo(json.dumps(fields | self.more))


def run_demo(asked: Demonstration) -> int:
    """The exit status: 0 only if every node became warm. Raises `Unusable` and `Failed`."""
    if asked.peers and (lacks := _EMBEDDED if asked.runtime == "embedded" else containerd.missing()):
        raise Unusable(f"--peers: {lacks}; {_PEERS_NEED}")
    if asked.runtime == "containerd" and (lacks := containerd.missing()):
        raise Unusable(f"--runtime containerd: {lacks}; leave the option out for the embedded runtime")
    if asked.stop_agent and asked.stop_agent not in {f"node-{number}" for number in range(1, asked.nodes + 1)}:
        raise Unusable(f"--stop-agent {asked.stop_agent}: nodes are node-1 to node-{asked.nodes}")
    display = Display(Console(quiet=asked.as_json, highlight=False), time.monotonic)
    outcome = _Outcome()
    try:
        status = run_in_folder(lambda folder: _demonstrate(asked, folder, display, outcome), os.environ)
    except Failed as error:
        outcome.reason = error.message.partition("\n")[0]
        raise
    finally:
        if asked.as_json:
            outcome.print()
    if status is None:
        display.text("\nEverything is stopped and removed.")
        return 0 if outcome.ok else 1
    return status


async def _demonstrate(asked: Demonstration, folder: Path, display: Display, outcome: _Outcome) -> int:
    display.say(f"starting a cluster in {folder}")
    plan = Plan(folder, folder / "kubeconfig", asked.runtime, program_commands(), peers=asked.peers)
    opening = open_demo_cluster(plan, for_children(os.environ), nodes=asked.nodes, say=display.say)
    async with opening as cluster:
        if asked.stop_agent:
            await cluster.agents[asked.stop_agent].stop()
            display.say(f"stopped the agent of {asked.stop_agent}, as asked")
        await cluster.kubernetes.create("/api/v1/namespaces", {"metadata": {"name": POLICY.namespace}})
        await cluster.kubernetes.create(warmpolicies(POLICY).rpartition("/")[0], policy_object(cluster))
        display.say(f"applied      WarmPolicy {POLICY}: pushes to shop/** go to nodes of pool web")
        await _push(asked, cluster, display, outcome)
        if asked.serve:
            _show_what_to_try(asked, cluster, display, outcome)
            await keep_serving(cluster, display)
    return 0 if outcome.ok else 1


async def _push(asked: Demonstration, cluster: Cluster, display: Display, outcome: _Outcome) -> None:
    pushed = push_image(cluster, _FIRST_TAG, datetime.now(UTC))
    outcome.image = str(pushed.image.without_digest())
    status = await send_webhook(cluster, pushed, asyncio.sleep)
    accepted = time.monotonic()
    key = ObjectKey(POLICY.namespace, warmimage_name(POLICY, pushed.image))
    line = await find_line(cluster, key) if status == 202 else None
    if line is None:
        cluster.check()
        raise cluster.shared[-1].failed(f"answered {status} to Harbor's webhook and made no WarmImage {key}")
    display.say(f"pushed       {outcome.image}, webhook answered 202")
    with display:
        following = follow_line(
            cluster, line, since=accepted, seconds=asked.timeout_seconds, monotonic=time.monotonic, sleep=asyncio.sleep
        )
        async with aclosing(following) as progress:
            async for nodes in progress:
                outcome.nodes = nodes
                display.show(nodes)
    cold = [node for node in outcome.nodes if node.state != "warm"]
    if cold:
        outcome.reason = "; ".join(f"{node.node} is not warm: {node.reason}" for node in cold)
        display.say(outcome.reason)
        for program in filter(None, (cluster.ended_on(node.node) for node in cold)):
            click.echo(f"\nThe end of the log of {program.name}:\n{indented(program.tail())}", err=True)
    else:
        outcome.reason = "all nodes are warm"
        display.say(f"all {len(outcome.nodes)} nodes have the image: a Pod that needs it starts without a pull")
        if asked.peers:
            await _show_transfers(cluster, line, display, outcome)


async def _show_transfers(cluster: Cluster, line: Line, display: Display, outcome: _Outcome) -> None:
    found = await read_transfers(cluster, line, asyncio.sleep)
    display.table(found.table())
    display.say(found.comparison())
    outcome.more |= found.fields()


def _show_what_to_try(asked: Demonstration, cluster: Cluster, display: Display, outcome: _Outcome) -> None:
    curl = curl_line(cluster, push_image(cluster, _SECOND_TAG, datetime.now(UTC)))
    registry = f"http://{cluster.registry}"
    outcome.more |= {
        "kubeconfig": str(cluster.plan.kubeconfig),
        "web": cluster.web_url,
        "registry": registry,
        "curl": curl,
    }
    if asked.as_json:
        outcome.print()
    display.text(
        f"\nEverything keeps running until Ctrl-C. In another terminal:\n\n"
        f"  export KUBECONFIG={cluster.plan.kubeconfig}\n"
        f"  kubectl get warmpolicies,warmimages -A\n"
        f"  warmhook ui   # the same as a page, on http://127.0.0.1:8081/ui/\n\n"
        f"web       {cluster.web_url}\n"
        f"registry  {registry}\n\n"
        f"The registry has {_SECOND_TAG} as well, without a webhook so far. Send the one that Harbor would send:\n\n"
        f"  {curl}\n"
    )
