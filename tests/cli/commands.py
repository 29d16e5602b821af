"""Run the commands of an operator within a world of the handlers, whose time jumps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.warmimage import read_warmimage
from cli.cluster import Cluster
from cli.lookup import look_up
from cli.target import read_target
from tests.handlers.world import NAMESPACE, World
from warmhook.node_lines import line_of
from warmhook.node_report import LineReport, LineState
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey

__all__ = ["cluster_of", "look_up", "read_target", "report", "shown"]


def cluster_of(world: World, namespace: str = "shop") -> Cluster:
    """As an administrator's kubeconfig gives it; empty: all namespaces."""
    return Cluster(
        world.admin,
        world.cluster,
        world.transport,
        world.clock,
        "http://api",
        "context 'test' of /config",
        namespace,
        NAMESPACE,
    )


async def report(world: World, node: str, states: dict[str, LineState], **more: Any) -> None:
    """The agent of a node says that the lines of these WarmImages are in these states."""
    seen, lines = more.pop("seen", None), dict[str, LineReport]()
    for name, state in states.items():
        line = line_of(read_warmimage(await world.admin.get(paths.warmimages(ObjectKey("shop", name)))))
        lines[line.key] = LineReport(line.version, state, **(more if state != "warm" else {}))
    await world.report(node, lines, seen=seen)


def shown(capsys: pytest.CaptureFixture[str]) -> Object:
    """What a command printed for programs."""
    found: Object = json.loads(capsys.readouterr().out)
    return found
