"""Explain what the agent and the runtime of a node made of a line."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from warmhook.api import REFRESH_ANNOTATION
from warmhook.checks import Check, command
from warmhook.durations import format_duration
from warmhook.explain_facts import (
    AgentPod,
    Facts,
    ImageState,
    ReportState,
    Unread,
    annotate,
    at,
    clean,
    patch,
    push_again,
)
from warmhook.images import is_digest
from warmhook.node_lines import line_key, line_of, version_of
from warmhook.node_report import REACHABLE_FOR, Report, read_detail, report_name
from warmhook.tenancy import permitted
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey, WarmImage

_AGENT: Final = "agent"
_OLD_SECONDS: Final = 300
"""An agent that runs has seen a line of this age."""


def agent_check(facts: Facts) -> Check:
    """Whether the agent of the node runs."""
    if facts.node is None:
        return Check("agent", "skipped", "there is no such node")
    unread = facts.agent_pods if isinstance(facts.agent_pods, Unread) else None
    pods = () if isinstance(facts.agent_pods, Unread) else facts.agent_pods
    pod = next(iter(sorted(pods, key=lambda each: not each.ready)), None)
    if pod is not None:
        return _of_pod(facts, pod)
    if _reachable(facts):
        return Check("agent", "ok", f"the agent of node {facts.node_name} reports")
    if unread is not None:
        message = f"the Pod of the agent could not be read: {unread.problem}"
        return Check("agent", "unknown", message, unread.mend, "NotRead")
    return _no_pod(facts)


def _of_pod(facts: Facts, pod: AgentPod) -> Check:
    if pod.problem or pod.phase not in ("Running", ""):
        return _not_running(facts, pod)
    restarts = f", restarted {pod.restarts} times" if pod.restarts else ""
    if _reachable(facts) or isinstance(facts.report, Unread):
        return Check("agent", "ok", f"Pod {pod.name} runs{restarts}")
    if _denied(facts):
        return Check("agent", "ok", f"Pod {pod.name} runs{restarts}, and may not write its report")
    return _silent(facts, pod)


def _no_pod(facts: Facts) -> Check:
    node, namespace = facts.node_name, facts.agents_namespace
    mend = command("kubectl", "-n", namespace, "describe", "daemonset", "warmhook-agent")
    not_ready = "" if isinstance(facts.node, Unread) or facts.node is None else facts.node.not_ready
    because = f"; the node is not Ready: {clean(not_ready)}" if not_ready else ""
    if isinstance(facts.report, ReportState):
        seen = facts.report.report.seen
        when = f" since {at(seen, facts.now)}" if seen else ""
        message = f"no agent runs on node {node}, and none has reported{when}{because}"
        return Check("agent", "wrong", message, mend, "AgentGone")
    if isinstance(facts.report, Unread):
        message = f"no Pod of the agent is on node {node}{because}, and its report could not be read"
        return Check("agent", "unknown", f"{message}: {facts.report.problem}", facts.report.mend, "NotRead")
    where = f"the DaemonSet warmhook-agent of namespace {namespace} has no Pod there"
    message = f"no agent was ever on node {node}: {where}{because}"
    return Check("agent", "wrong", message, mend, "AgentMissing")


def _not_running(facts: Facts, pod: AgentPod) -> Check:
    what = pod.problem or pod.phase
    details = f": {clean(pod.message)}" if pod.message else ""
    words = ("describe", "pod", pod.name)
    if pod.problem in ("CrashLoopBackOff", "Error", "OOMKilled"):
        words = ("logs", pod.name, "--previous")
    mend = command("kubectl", "-n", facts.agents_namespace, *words)
    message = f"Pod {pod.name} on node {facts.node_name} does not run: {clean(what)}{details}"
    return Check("agent", "wrong", message, mend, "AgentNotRunning")


def _silent(facts: Facts, pod: AgentPod) -> Check:
    logs = command("kubectl", "-n", facts.agents_namespace, "logs", pod.name, "--tail=50")
    node = facts.node
    if isinstance(node, Unread) or node is None or not node.not_ready:
        seen = _seen(facts)
        if seen is not None and seen > facts.now:
            message = f"the clock of node {facts.node_name} is wrong: the agent reported at {at(seen, facts.now)}"
            mend = command("kubectl", "get", "node", facts.node_name, "-o", "wide")
            return Check("agent", "wrong", message, mend, "ClockWrong")
        when = f"nothing since {at(seen, facts.now)}" if seen else "nothing yet"
        return Check("agent", "wrong", f"Pod {pod.name} runs, and has reported {when}", logs, "AgentSilent")
    message = f"node {facts.node_name} is not Ready, and its agent is silent: {clean(node.not_ready)}"
    return Check("agent", "wrong", message, command("kubectl", "describe", "node", facts.node_name), "NodeNotReady")


# --- report ----------------------------------------------------------------------------------------------------------


def report_check(facts: Facts, warmimage: WarmImage) -> Check:
    """Whether the agent has reported the line as the node's ConfigMap has it now."""
    name = report_name(facts.node_name)
    if isinstance(facts.report, Unread):
        message = f"the report of the node could not be read: {facts.report.problem}"
        return Check("report", "unknown", message, facts.report.mend, "NotRead")
    if not _reachable(facts) and _denied(facts):
        denied = _denied(facts)
        what = ", ".join(denied[:3]) + ", ..." * (len(denied) > 3)
        message = f"the agent may not write its report {name}: its ServiceAccount may not {what}"
        return Check("report", "wrong", message, "kubectl apply --server-side -k .", "Forbidden")
    if facts.report is None:
        message = f"there is no report {name}: the agent has written none"
        return Check("report", "wrong", message, _agent_logs(facts), "NoReport")
    seen = _seen(facts)
    if not _reachable(facts):
        when = f"of {at(seen, facts.now)}" if seen else "without a time"
        message = f"the last report {name} is {when}, and counts for {format_duration(REACHABLE_FOR.total_seconds())}"
        return Check("report", "wrong", message, _agent_logs(facts), "Stale")
    key, version = _line(facts, warmimage)
    report = facts.report.report
    if version and report.knows(key, version):
        when = f", {at(seen, facts.now)}" if seen else ""
        return Check("report", "ok", f"the agent reports it as {report.state(key, version)}{when}")
    return _unseen(facts, warmimage)


def _unseen(facts: Facts, warmimage: WarmImage) -> Check:
    """That the agent reports, but not this line."""
    if isinstance(facts.desired, Unread):
        message = f"which line the agent should report is not known: {facts.desired.problem}"
        return Check("report", "unknown", message, facts.desired.mend, "NotRead")
    old = warmimage.created_at is None or (facts.now - _changed(warmimage)).total_seconds() >= _OLD_SECONDS
    message = f"the agent of node {facts.node_name} has not reported the line as it is now"
    return Check("report", "wrong" if old else "waiting", message, _agent_logs(facts), "NotSeen")


def _changed(warmimage: WarmImage) -> datetime:
    moments = [moment for moment in (warmimage.pushed_at, warmimage.created_at) if moment is not None]
    return max(moments)


def _seen(facts: Facts) -> datetime | None:
    return facts.report.report.seen if isinstance(facts.report, ReportState) else None


def _reachable(facts: Facts) -> bool:
    return isinstance(facts.report, ReportState) and facts.report.report.reachable(facts.now)


def _denied(facts: Facts) -> tuple[str, ...]:
    return () if isinstance(facts.denied, Unread) else facts.denied.get(_AGENT, ())


def _line(facts: Facts, warmimage: WarmImage) -> tuple[str, str]:
    """The key of the line, and its version in the node's ConfigMap; empty if it has none.

    If the ConfigMap could not be read it is the version that it should have.
    """
    key = line_key(warmimage.key)
    if isinstance(facts.desired, Unread):
        return key, line_of(permitted(warmimage)).version
    lines = facts.desired.lines if facts.desired is not None else {}
    return key, version_of(lines[key]) if key in lines else ""


def _agent_logs(facts: Facts) -> str:
    words = ["kubectl", "-n", facts.agents_namespace, "logs"]
    if not isinstance(facts.agent_pods, Unread) and facts.agent_pods:
        return command(*words, facts.agent_pods[0].name, "--tail=50")
    return command("kubectl", "-n", facts.agents_namespace, "get", "pods", "-o", "wide")


# --- runtime ---------------------------------------------------------------------------------------------------------


def runtime_check(facts: Facts, warmimage: WarmImage) -> Check:
    """What the runtime did with the line, by a report that counts."""
    key, version = _line(facts, warmimage)
    if not isinstance(facts.report, ReportState) or not version or not _reachable(facts):
        return Check("runtime", "skipped", "not reached")
    report, text = facts.report.report, facts.report.details.get(key, "")
    if not report.knows(key, version):
        return Check("runtime", "skipped", "not reached")
    if report.state(key, version) == "warm":
        return _warm(facts, warmimage, report, version, text)
    fields = _fields(text)
    if fields.get("reason"):
        return _failed(facts, warmimage, text, report.state(key, version))
    if report.state(key, version) == "pulling":
        return Check("runtime", "waiting", f"node {facts.node_name} pulls the image now", "", "Pulling")
    return _not_begun(facts, report)


def _not_begun(facts: Facts, report: Report) -> Check:
    """That the node does not pull the image now, and why, as far as its report shows it."""
    message, mend = f"node {facts.node_name} has not begun to pull it", ""
    if not_ready := _not_ready(facts):
        message = f"node {facts.node_name} is not Ready: {clean(not_ready)}"
    elif first := sum(state == "pulling" for state, _ in report.states.values()):
        message += f": it pulls {first} other image{'s' * (first > 1)}"
    else:
        message, mend = f"{message}, and pulls no other", _agent_logs(facts)
    return Check("runtime", "waiting", message, mend, "Waiting")


def runtime_by_status(facts: Facts, image: ImageState, *, placed: bool) -> Check:
    """What the status of the WarmImage says of the node, if its report could not be read."""
    node = facts.node_name
    if image.failure is not None:
        reason, said = image.failure
        message = f"{_MEANING.get(reason, 'the pull failed')} on node {node}, by the status: {clean(said)}"
        return Check("runtime", "wrong", message, _mend(facts, image.warmimage, reason), clean(reason))
    if image.all_warm and placed:
        return Check("runtime", "ok", f"all nodes that should hold it are warm ({image.progress}), and {node} is one")
    counted = (
        f"{clean(image.progress)} nodes are warm by the status of the WarmImage" if image.progress else "no status"
    )
    whether = "" if placed else f", and whether {node} should hold it is not known"
    return Check("runtime", "unknown", f"{counted}{whether}", "", "NotRead")


def _not_ready(facts: Facts) -> str:
    return "" if isinstance(facts.node, Unread) or facts.node is None else facts.node.not_ready


def _warm(facts: Facts, warmimage: WarmImage, report: Report, version: str, text: str) -> Check:
    if version not in report.moved:
        return Check("runtime", "ok", f"the runtime of node {facts.node_name} has the image")
    brought = str(_fields(text).get("moved", "")) or "another digest"
    wanted = warmimage.resolved.digest if warmimage.resolved is not None else warmimage.digest
    message = f"the tag moved: the node has {clean(brought)}, and the WarmImage wants {wanted}"
    digest = ("--digest", brought) if is_digest(brought) else ()
    return Check("runtime", "wrong", message, push_again(facts, *digest), "TagMoved")


def _fields(text: str) -> dict[str, object]:
    """The detail of a line; nodes are hostile input."""
    try:
        fields = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _failed(facts: Facts, warmimage: WarmImage, text: str, state: str) -> Check:
    reason, said = read_detail(text)
    attempts = _fields(text).get("attempts", 0)
    times = attempts if isinstance(attempts, int) else 0
    node = facts.node_name
    if reason == "RuntimeError" and state == "waiting" and not times:
        message = f"the agent does not reach the runtime of node {node}: {said}"
        return Check("runtime", "wrong", message, f"ssh {node} sudo systemctl restart containerd", "RuntimeDown")
    message = f"{_MEANING.get(reason, 'the pull failed')} on node {node}"
    message += f" ({times} attempt{'s' * (times != 1)})" if times else ""
    return Check("runtime", "wrong", f"{message}: {said}" if said else message, _mend(facts, warmimage, reason), reason)


_MEANING: Final = {
    "NotFound": "the registry does not have the image, or does not show it to this node: the pull failed",
    "Unauthorized": "the registry does not serve the image: the pull failed",
    "RateLimited": "the registry limits requests: the pull waits",
    "Network": "the registry could not be reached",
    "Timeout": "the pull took too long",
    "DiskFull": "there is no room on the disk for images",
    "Evicted": "another program removed pulled images again and again",
    "Refused": "the image's host is the node itself or link-local, which is not allowed",
    "NotRunnable": "it is no container image, so nothing can run it",
    "PlatformMissing": "the image is for another platform: the pull failed",
}


_ONLY_LOCAL: Final = "if nodes run this registry themselves, and no namespace may name another address of a node"


def _mend(facts: Facts, warmimage: WarmImage, reason: str) -> str:
    """The command that mends a failed pull."""
    node, image, credentials = facts.node_name, warmimage.image, _credentials(facts, warmimage)
    wget = ("-it", "--image=busybox", "--", "wget", "-T", "10", "-S", "-O", "/dev/null", f"https://{image.host}/v2/")
    ask = command("kubectl", "debug", f"node/{node}", *wget)
    local = ("set", "env", "daemonset/warmhook-agent", "WARMHOOK_ALLOW_LOCAL_REGISTRIES=true")
    # Not `kubectl debug`: no Pod starts on a node without disk space.
    prune = f"ssh {node} sudo crictl rmi --prune"
    mends = {
        "NotFound": f"push {image} to the registry, then: {_refresh(facts, warmimage)}",
        "Unauthorized": credentials,
        "RateLimited": f"wait, or give nodes an account: {credentials}",
        "Network": ask,
        "Timeout": ask,
        "DiskFull": prune,
        "Evicted": prune,
        "Refused": f"{_ONLY_LOCAL}: {command('kubectl', '-n', facts.agents_namespace, *local)}",
        "NotRunnable": f"push a container image as {image}",
        "PlatformMissing": f"push {image} for the platform of the node as well",
    }
    return mends.get(reason, _agent_logs(facts))


def _refresh(facts: Facts, warmimage: WarmImage) -> str:
    moment = format_time(facts.now.replace(microsecond=0))
    return annotate("warmimage", warmimage.key, f"{REFRESH_ANNOTATION}={moment}")


def _credentials(facts: Facts, warmimage: WarmImage) -> str:
    """How the agent gets an account, or may read the one that is named."""
    key, secrets = warmimage.key, warmimage.template.pull.secrets
    if secrets:
        account = f"--as=system:serviceaccount:{facts.agents_namespace}:warmhook-agent"
        return command("kubectl", "-n", key.namespace, "auth", "can-i", "get", f"secret/{secrets[0]}", account)
    pull = '{"pull":{"secrets":["<secret>"],"sharePrivate":true}}'
    if warmimage.policy_label:
        policy = ObjectKey(key.namespace, warmimage.policy_name)
        return patch("warmpolicy", policy, "merge", f'{{"spec":{{"template":{pull}}}}}')
    return patch("warmimage", key, "merge", f'{{"spec":{pull}}}')
