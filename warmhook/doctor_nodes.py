"""Check the agents of all nodes, and whether nodes have room for their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from warmhook.checks import Check, named
from warmhook.node_report import Report
from warmhook.placement import ANY_LINUX_NODE, NODE_NAME_MAX, Node

_AHEAD: Final = timedelta(seconds=60)
_JOINING: Final = timedelta(minutes=10)
"""For so long a new node is only waited for."""


def agent_checks(nodes: Sequence[Node], reports: Mapping[str, Report], now: datetime, namespace: str) -> list[Check]:
    """Agents that are missing, silent or of another version, and clocks of nodes.

    `now` is the time of the API server, if known; `namespace` is that of the agents.
    """
    agents = _agents(nodes, reports, now, f"kubectl -n {namespace} get pods -o wide")
    rollout = f"kubectl -n {namespace} rollout status daemonset/warmhook-agent"
    return [agents, _versions(reports, now, rollout), _clocks(reports, now)]


def _agents(nodes: Sequence[Node], reports: Mapping[str, Report], now: datetime, mend: str) -> Check:
    linux = [node for node in nodes if ANY_LINUX_NODE.matches(node.labels)]
    absent = [node for node in linux if node.name not in reports]
    silent = [node.name for node in linux if node.name in reports and not reports[node.name].reachable(now)]
    joining = [node.name for node in absent if node.created_at and now - node.created_at < _JOINING]
    missing = [node.name for node in absent if node.name not in joining]
    if long := [node.name for node in absent if len(node.name) > NODE_NAME_MAX]:
        message = f"{named(long)}: a name of more than {NODE_NAME_MAX} characters can have no ConfigMap"
        return Check("agents", "wrong", message, "register the node under a shorter name", "NameTooLong")
    if missing or silent:
        parts = [f"{len(missing)} without a report ({named(missing)})"] if missing else []
        parts += [f"{len(silent)} silent for 10 minutes or more ({named(silent)})"] if silent else []
        message = f"of {len(linux)} Linux nodes: {', '.join(parts)}"
        return Check("agents", "wrong", message, mend, "AgentMissing" if missing else "AgentSilent")
    if joining:
        message = f"{named(joining)} joined a moment ago, and their agents have not reported yet"
        return Check("agents", "waiting", message, mend, "AgentMissing")
    if not linux:
        return Check("agents", "unknown", "there is no Linux node", "", "NoNodes")
    return Check("agents", "ok", f"{len(linux)} Linux nodes, each with an agent that reports")


def _versions(reports: Mapping[str, Report], now: datetime, mend: str) -> Check:
    """Compare with most of them: a node that was taken over can say any version."""
    agents = {name: report.agent for name, report in reports.items() if report.reachable(now)}
    if not agents:
        return Check("agent-versions", "skipped", "no agent reports")
    most, count = Counter(agents.values()).most_common(1)[0]
    others = {name: version for name, version in agents.items() if version != most}
    if others:
        shown = named(f"{name} ({version or 'unknown'})" for name, version in others.items())
        message = f"{count} of {len(agents)} agents say version {most or 'unknown'}, others another one: {shown}"
        return Check("agent-versions", "waiting", message, mend, "OtherVersion")
    if not most:
        return Check("agent-versions", "unknown", "no agent says its version: all are of an older one", "", "NoVersion")
    return Check("agent-versions", "ok", f"all {len(agents)} agents have version {most}")


def _clocks(reports: Mapping[str, Report], now: datetime) -> Check:
    ahead = {
        name: report.seen - now
        for name, report in reports.items()
        if report.seen is not None and report.seen - now > _AHEAD
    }
    if ahead:
        worst = max(ahead, key=lambda name: ahead[name])
        message = f"{len(ahead)} nodes are ahead, {worst} by {ahead[worst].total_seconds():.0f} s"
        return Check("node-clocks", "wrong", message, f"check NTP on {worst}: chronyc tracking", "ClockSkew")
    return Check("node-clocks", "ok", "no agent reports from the future")


def lines_check(refused: Mapping[str, Collection[str]]) -> Check:
    """Nodes without room for some of their images; `refused` by node the keys of lines."""
    full = {name: keys for name, keys in refused.items() if keys}
    if full:
        worst = max(full, key=lambda name: len(full[name]))
        message = f"{len(full)} nodes have no room for some images, {worst} for {len(full[worst])}"
        mend = "suspend or narrow policies, or raise linesPerNode (docs/tenancy.md)"
        return Check("lines", "wrong", message, mend, "TooManyLines")
    return Check("lines", "ok", "every node has room for its images")
