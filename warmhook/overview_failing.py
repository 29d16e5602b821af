"""Say what keeps images from nodes, and what is wrong with the installation."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from warmhook.checks import Check
from warmhook.image_status import UNUSABLE
from warmhook.inventory import ImageFacts, Inventory, Rights
from warmhook.overview import Failing, Tally
from warmhook.status import NO_WORD

_NAMED_MAX: Final = 10
"""Nodes that one reason names."""
_AGENTS: Final = "kubectl -n warmhook-agents get pods -o wide"
_NOT_NAMED: Final = "more nodes than the status of a WarmImage names; look at the nodes of the image"


def failing_of(facts: ImageFacts, total: Tally, silent: frozenset[str], rights: Rights) -> list[Failing]:
    """Why nodes do not have an image: one entry per reason, those of the image as a whole first.

    `silent` are the unreachable nodes that should hold it.
    """

    def entry(reason: str, nodes: list[str], count: int, message: str) -> Failing:
        shown = tuple(sorted(nodes)[:_NAMED_MAX]) if rights.nodes else ()
        return Failing(facts.key, facts.image, reason, shown, count, message)

    found = []
    if not facts.ready and facts.reason in UNUSABLE:
        found.append(entry(facts.reason, [], 0, facts.message))
    if facts.complete or not total.desired:
        return found
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    messages: dict[str, str] = {}
    for failure in facts.failures:
        if failure.reason != "NoAgent" and failure.node not in silent:
            by_reason[failure.reason].append(failure.node)
            messages.setdefault(failure.reason, failure.message)
    named = sum(map(len, by_reason.values()))
    # The status may be a second older than the counts.
    if total.failed:
        only = len(by_reason) == 1
        for reason, nodes in by_reason.items():
            found.append(entry(reason, nodes, total.failed if only else len(nodes), messages[reason]))
        if not only and total.failed > named:
            found.append(entry("NotNamed", [], total.failed - named, _NOT_NAMED))
    if total.unreachable:
        found.append(entry("Unreachable", list(silent), total.unreachable, NO_WORD))
    return found


def installation_checks(inventory: Inventory, rights: Rights) -> tuple[Check, ...]:
    """What is wrong with agents and ConfigMaps; empty if nothing is, or for a reader who may not see nodes."""
    if not rights.nodes:
        return ()
    checks, nodes = [], len(inventory.nodes)
    without = sum(name not in inventory.reports for name in inventory.silent)
    silent = len(inventory.silent) - without
    if silent:
        message = f"the agents of {silent} of {nodes} nodes are silent for 10 minutes or more"
        checks.append(Check("agents", "wrong", message, _AGENTS, "NoAgent"))
    if without:
        message = f"{without} of {nodes} nodes never reported; virtual nodes and those of Windows have no agent"
        checks.append(Check("agents", "unknown", message, _AGENTS, "NeverReported"))
    full = sum(lacks_room(inventory, rights, name) for name in inventory.nodes)
    if full:
        message = f"{full} of {nodes} nodes have no room for some of their images"
        checks.append(Check("lines", "wrong", message, "select fewer images per node", "TooManyLines"))
    return tuple(checks)


def lacks_room(inventory: Inventory, rights: Rights, node: str) -> bool:
    """Whether a node has no room for an image that the reader may see."""
    keys = (inventory.by_line.get(line) for line in inventory.desired_of(node).refused)
    return any(key is not None and rights.sees(key.namespace) for key in keys)
