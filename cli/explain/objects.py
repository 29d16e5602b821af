"""Read the objects that explain an image on a node: Nodes, Pods of agents, the Lease, webhooks, refusals."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Final

from adapters.kubernetes.errors import KubernetesError
from adapters.kubernetes.nodes import read_node
from adapters.kubernetes.webhook_secret import BY_CERT_MANAGER
from handlers.reconcile.objects import PolicyObject, read_desired
from warmhook.checks import command
from warmhook.explain_facts import (
    AgentPod,
    DesiredState,
    ImageState,
    NodeState,
    PolicyState,
    ReportState,
    Unread,
    WebhookState,
    clean,
)
from warmhook.node_report import read_report
from warmhook.ports import Object
from warmhook.status import find_condition
from warmhook.warmimages import WarmImage

_FORBIDDEN_USER: Final = re.compile(r'User "([^"\s]{1,253})" cannot ')
_GROUPS: Final = {
    "warmpolicies": ".warmhook.dev",
    "warmimages": ".warmhook.dev",
    "leases": ".coordination.k8s.io",
    "mutatingwebhookconfigurations": ".admissionregistration.k8s.io",
    "subjectaccessreviews": ".authorization.k8s.io",
}


def refused(error: KubernetesError, verb: str, resource: str, namespace: str = "") -> Unread:
    """Why something could not be read, and the command that grants the right if that is missing."""
    if error.status != 403:
        return Unread(clean(str(error)))
    where = f"in namespace {namespace}" if namespace else "in the cluster"
    found = _FORBIDDEN_USER.search(str(error))
    user = found.group(1) if found else "<user>"
    account = user.removeprefix("system:serviceaccount:")
    subject = f"--serviceaccount={account}" if account != user else f"--user={user}"
    scope = ("-n", namespace) if namespace else ()
    kind, name = ("role" if namespace else "clusterrole"), f"warmhook-explain-{resource}"
    role = ("create", kind, name, f"--verb={verb}", f"--resource={resource}{_GROUPS.get(resource, '')}")
    binding = ("create", f"{kind}binding", name, f"--{kind}={name}", subject)
    grant = f"{command('kubectl', *scope, *role)} && {command('kubectl', *scope, *binding)}"
    return Unread(f"you may not {verb} {resource} {where}", grant)


def policy_state(found: PolicyObject) -> PolicyState:
    """A WarmPolicy with what its conditions say."""
    status = found.object.get("status") or {}
    degraded, observed = find_condition(status, "Degraded"), find_condition(status, "Observed")
    return PolicyState(
        found.key,
        found.policy,
        found.problem,
        _message(degraded) if degraded.get("status") == "True" else "",
        _message(observed) if observed.get("status") == "False" else "",
    )


def image_state(warmimage: WarmImage, obj: Object, node: str) -> ImageState:
    """A WarmImage with what its status says, also of the node."""
    status: Object = obj.get("status") or {}
    allowed, ready = find_condition(status, "Allowed"), find_condition(status, "Ready")
    failures = [each for each in status.get("failures") or [] if each.get("node") == node]
    return ImageState(
        warmimage,
        _message(allowed) if allowed.get("status") == "False" else "",
        without_node=ready.get("reason") == "BeyondLimits",
        unplaced=_message(ready) if ready.get("reason") == "PodsUnknown" else "",
        failure=next(((str(each.get("reason")), str(each.get("message", ""))) for each in failures), None),
        progress=str(status.get("progress") or ""),
        all_warm=ready.get("reason") == "AllWarm",
    )


def _message(condition: object) -> str:
    found = condition.get("message") if isinstance(condition, dict) else ""
    return clean(str(found or ""))


def node_state(obj: Object, now: datetime) -> NodeState:
    """The Node with its condition `Ready`."""
    ready = find_condition(obj.get("status") or {}, "Ready")
    problem = ""
    if ready and ready.get("status") != "True":
        problem = clean(f"{ready.get('reason', '')}: {ready.get('message', '')}".strip(": ")) or "NotReady"
    return NodeState(read_node(obj, now), problem)


def desired_state(obj: Object) -> DesiredState:
    """The lines of a node."""
    found, data = read_desired(obj["metadata"]), obj.get("data") or {}
    lines = {key: text for key, text in data.items() if "." not in key}
    return DesiredState(lines, found.refused if found is not None else frozenset())


def report_state(obj: Object) -> ReportState:
    """The report of a node."""
    return ReportState(read_report(obj["metadata"]), obj.get("data") or {})


def agent_pod(obj: Object) -> AgentPod:
    """The Pod of an agent."""
    status = obj.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or []}
    container: Object = next(iter(status.get("containerStatuses") or []), {})
    waiting = (container.get("state") or {}).get("waiting") or {}
    ended = (container.get("state") or {}).get("terminated") or {}
    unscheduled = conditions.get("PodScheduled", {})
    problem = str(waiting.get("reason") or ended.get("reason") or "")
    message = str(waiting.get("message") or ended.get("message") or status.get("message") or "")
    if unscheduled.get("status") == "False":
        problem, message = str(unscheduled.get("reason") or ""), str(unscheduled.get("message") or "")
    return AgentPod(
        obj["metadata"]["name"],
        str(status.get("phase") or ""),
        conditions.get("Ready", {}).get("status") == "True",
        problem,
        message,
        int(container.get("restartCount") or 0),
    )


def webhook_state(obj: Object) -> WebhookState:
    """The webhook for new Pods, without its path: that has a token."""
    bundles = [str((hook.get("clientConfig") or {}).get("caBundle") or "") for hook in obj.get("webhooks") or []]
    by_cert_manager = BY_CERT_MANAGER in (obj["metadata"].get("annotations") or {})
    if not bundles or not all(bundles):
        return WebhookState(has_authority=False, by_cert_manager=by_cert_manager)
    # Imported here: it takes a tenth of a second.
    from adapters.certificates import NotACertificate, last_end

    try:
        expires_at = min(last_end(base64.b64decode(each)) for each in bundles)
    except (NotACertificate, binascii.Error, ValueError):
        expires_at = None
    return WebhookState(has_authority=True, expires_at=expires_at, by_cert_manager=by_cert_manager)
