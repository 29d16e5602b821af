"""Explain whether a WarmImage selects a node, and whether the node has its line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from warmhook.api import LINE_LABEL, PURGE_ANNOTATION
from warmhook.checks import Check, command
from warmhook.explain_facts import (
    DesiredState,
    Facts,
    ImageState,
    NodeState,
    Unread,
    annotate,
    at,
    clean,
    patch,
)
from warmhook.node_affinity import affinity_object
from warmhook.node_lines import MAX_LINES, Line, NotALine, line_key, line_of, read_line
from warmhook.placement import (
    NODE_NAME_MAX,
    Node,
    RunningNodes,
    lacks_platform,
    place_each,
    platform_of_node,
    refusing_part,
    selector_of,
)
from warmhook.taints import CORDONED, untolerated
from warmhook.tenancy import permitted
from warmhook.warmimages import Limit, ObjectKey, WarmImage, policy_label

FRESH_SECONDS: Final = 60
"""A change that is younger may still be on its way."""
_PLATFORMS_SHOWN: Final = 5


def warmimage_check(facts: Facts, image: ImageState, *, warm: bool) -> Check:
    """Whether nodes should hold the WarmImage at all."""
    warmimage = image.warmimage
    key, name = warmimage.key, f"WarmImage {warmimage.key}"
    if warmimage.purged:
        return _purged(warmimage)
    if warmimage.complete:
        since = warmimage.lifecycle.complete_since
        message = f"{name} was warmed once and is complete since {at(since, facts.now) if since else 'long ago'}"
        mend = _with_template(facts, warmimage, '{"lifetime":{"type":"Keep"}}')
        return Check("warmimage", "wrong", f"{message}, so nodes hold it no longer", mend, "Complete")
    if image.without_node:
        message = f"{name}: {clean(image.not_allowed)}"
        return Check("warmimage", "wrong", message, _allow(key.namespace), "BeyondLimits")
    if warmimage.resolved is not None and not warmimage.resolved.runnable:
        message = f"the registry has no container image under {warmimage.image}, but {warmimage.resolved.media_type}"
        return Check("warmimage", "wrong", message, "push a container image under this name", "NotRunnable")
    if warmimage.template.suspend and not warm:
        message = f"{name} is suspended: nodes pull nothing for it"
        return Check("warmimage", "wrong", message, _resume(facts, warmimage), "Suspended")
    pushed = f", pushed {at(warmimage.pushed_at, facts.now)}" if warmimage.pushed_at else ""
    limited = f"; not allowed: {clean(image.not_allowed)}" if image.not_allowed else ""
    return Check("warmimage", "ok", f"{name}{pushed}{limited}")


def _resume(facts: Facts, warmimage: WarmImage) -> str:
    """The command for the policy if that is suspended: the handlers would suspend its WarmImage again."""
    states = () if isinstance(facts.policies, Unread) else facts.policies
    suspended = (each.key for each in states if each.policy is not None and each.policy.template.suspend)
    policy = next((key for key in suspended if policy_label(key) == warmimage.policy_label), None)
    kind, key = ("warmimage", warmimage.key) if policy is None else ("warmpolicy", policy)
    return patch(kind, key, "merge", '{"spec":{"suspend":false}}')


def _purged(warmimage: WarmImage) -> Check:
    key, change = warmimage.key, f"{PURGE_ANNOTATION}-"
    message = f"WarmImage {key} is purged: nodes should not have it for now"
    mend = annotate("warmimage", key, change)
    if warmimage.template.requests.purge:
        message = f"policy {key.namespace}/{warmimage.policy_name} is purged: nodes should not have its images for now"
        mend = annotate("warmpolicy", replace(key, name=warmimage.policy_name), change)
    return Check("warmimage", "wrong", message, mend, "Purged")


def _allow(namespace: str) -> str:
    change = f"allow it for namespace {namespace} in the section namespaces of the handlers' config.yaml"
    return f"{change}, then: kubectl apply --server-side -k ."


# --- placement -------------------------------------------------------------------------------------------------------


def placement_check(facts: Facts, image: ImageState) -> Check:
    """Whether the WarmImage selects the node."""
    if isinstance(facts.node, Unread):
        message = f"the node could not be read: {facts.node.problem}"
        return Check("placement", "unknown", message, facts.node.mend, "NotRead")
    if facts.node is None:
        return node_not_found(facts)
    if isinstance(facts.running, Unread):
        message = f"which nodes run the Pods that decide is not known: {clean(facts.running.problem)}"
        return Check("placement", "unknown", message, facts.running.mend, "PodsUnknown")
    if image.unplaced:
        why = clean(image.unplaced.partition(", run:")[0])
        message = f"the handlers do not know which nodes run the Pods that decide: {why}"
        return Check("placement", "wrong", message, _grant_pods(facts, image.warmimage), "PodsUnknown")
    warmimage, node = permitted(image.warmimage), facts.node.node
    if not _selects(_unlimited(warmimage), [node], facts.running, node):
        return _unselected(facts, warmimage, node)
    return _among_selected(facts, warmimage, facts.node, facts.running)


def node_not_found(facts: Facts) -> Check:
    """That the Node does not exist, with the names that may be meant."""
    similar = f"; similar: {', '.join(facts.similar_nodes)}" if facts.similar_nodes else ""
    message = f"there is no node {facts.node_name} in the cluster{similar}"
    return Check("placement", "wrong", message, "kubectl get nodes", "NodeNotFound")


def _among_selected(facts: Facts, warmimage: WarmImage, state: NodeState, running: RunningNodes) -> Check:
    """Whether a node that is selected gets the image."""
    node, limit = state.node, warmimage.template.nodes.limit
    if lacks_platform(warmimage.resolved, node):
        return _other_platform(warmimage, node)
    if limit is None:
        return Check("placement", "ok", f"node {node.name} is selected")
    if isinstance(facts.others, Unread):
        message = f"the limit chooses among all nodes, which could not be read: {facts.others.problem}"
        return Check("placement", "unknown", message, facts.others.mend, "NotRead")
    if _selects(warmimage, facts.others, running, node):
        return Check("placement", "ok", f"node {node.name} is one of the {_limit(limit)} that the limit chooses")
    return _beyond_limit(facts, state, warmimage, limit)


def _grant_pods(facts: Facts, warmimage: WarmImage) -> str:
    role = "warmhook-pods"
    account = f"--serviceaccount={facts.system_namespace}:warmhook-handlers"
    words = ("create", "rolebinding", role, f"--clusterrole={role}", account)
    return command("kubectl", "-n", warmimage.key.namespace, *words)


def _selects(warmimage: WarmImage, nodes: Iterable[Node], running: RunningNodes, node: Node) -> bool:
    return any(node.name == each.name for _, chosen in place_each([warmimage], nodes, running) for each in chosen)


def _unlimited(warmimage: WarmImage) -> WarmImage:
    nodes = replace(warmimage.template.nodes, limit=None)
    return replace(warmimage, template=replace(warmimage.template, nodes=nodes))


def _unselected(facts: Facts, warmimage: WarmImage, node: Node) -> Check:
    """The part of `nodes` that excludes the node."""
    wanted, name = warmimage.template.nodes, node.name
    match refusing_part(wanted, node):
        case "name":
            message = f"the name of node {name} has more than {NODE_NAME_MAX} characters, so no ConfigMap can be for it"
            return Check("placement", "wrong", message, "", "NodeNameTooLong")
        case "names":
            message = f"nodes.names of the policy does not have {name}"
            return Check("placement", "wrong", message, _edit_nodes(facts, warmimage), "NotSelected")
        case "selector":
            return _not_matched(facts, warmimage, node)
        case "affinity":
            terms = clean(str(affinity_object(wanted.affinity or ())["nodeSelectorTerms"]))
            message = f"node {name} does not match the required affinity {terms}"
            return Check("placement", "wrong", message, _edit_nodes(facts, warmimage), "NotSelected")
        case "tolerations":
            return _tainted(facts, warmimage, node)
        case _:
            message = f"no Pod that the image is for runs on node {name}"
            mend = command("kubectl", "-n", warmimage.key.namespace, "get", "pods", "-o", "wide")
            return Check("placement", "wrong", message, mend, "NoRunningPods")


def _not_matched(facts: Facts, warmimage: WarmImage, node: Node) -> Check:
    requirements = selector_of(warmimage.template.nodes).requirements
    missing = next(each for each in requirements if not each.matches(node.labels))
    has = node.labels.get(missing.key)
    label = "has no such label" if has is None else f"has {missing.key}={has}"
    message = f"the selector wants {clean(missing.query())}, and node {node.name} {label}"
    # A label that is there means something to others, and those of Kubernetes are not for people to set.
    if has is None and missing.operator == "In" and "kubernetes.io/" not in missing.key:
        mend = command("kubectl", "label", "node", node.name, f"{missing.key}={missing.values[0]}")
    else:
        mend = _edit_nodes(facts, warmimage)
    return Check("placement", "wrong", message, mend, "NotSelected")


def _tainted(facts: Facts, warmimage: WarmImage, node: Node) -> Check:
    taint, *_ = untolerated(node.taints, node.unschedulable, warmimage.template.nodes.tolerations or ())
    if taint.key == CORDONED:
        message = f"node {node.name} is cordoned, and the image is for nodes on which Pods can be scheduled"
        return Check("placement", "wrong", message, command("kubectl", "uncordon", node.name), "Cordoned")
    shown = clean(f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}")
    if warmimage.pod_origin is not None:
        message = f"node {node.name} has the taint {shown}, which the Pods of the image do not tolerate"
        return Check("placement", "wrong", message, command("kubectl", "describe", "node", node.name), "Tainted")
    message = f"node {node.name} has the taint {shown}, which nodes.tolerations does not tolerate"
    key, kind = _owner(facts, warmimage)
    path = "/spec/template/nodes/tolerations/-" if kind == "warmpolicy" else "/spec/nodes/tolerations/-"
    change = [{"op": "add", "path": path, "value": {"key": taint.key, "operator": "Exists"}}]
    mend = patch(kind, key, "json", json.dumps(change, separators=(",", ":")))
    return Check("placement", "wrong", message, mend, "Tainted")


def _other_platform(warmimage: WarmImage, node: Node) -> Check:
    platforms = warmimage.resolved.platforms if warmimage.resolved else ()
    shown = ", ".join(platforms[:_PLATFORMS_SHOWN]) + (", ..." if len(platforms) > _PLATFORMS_SHOWN else "")
    message = f"the image is for {clean(shown)}, and node {node.name} is {platform_of_node(node)}"
    platform = ("--platform", str(platform_of_node(node)))
    mend = command("docker", "buildx", "build", *platform, "--push", "-t", str(warmimage.image), ".")
    return Check("placement", "wrong", message, mend, "PlatformMissing")


def _beyond_limit(facts: Facts, state: NodeState, warmimage: WarmImage, limit: Limit) -> Check:
    node = state.node
    if node.unschedulable:
        message = f"node {node.name} is cordoned, and the limit of {_limit(limit)} takes other nodes first"
        return Check("placement", "wrong", message, command("kubectl", "uncordon", node.name), "Cordoned")
    if node.away:
        message = f"node {node.name} is not Ready, and the limit of {_limit(limit)} takes other nodes first"
        return Check("placement", "wrong", message, command("kubectl", "describe", "node", node.name), "NotReady")
    message = f"the limit of {_limit(limit)} chose other nodes than {node.name} for this image"
    if not limit.value:
        message = "the limit is 0, so no node is selected"
    mend = _with_template(facts, warmimage, '{"nodes":{"limit":null}}')
    return Check("placement", "wrong", message, mend, "BeyondLimit")


def _limit(limit: Limit) -> str:
    return f"{limit.value} %" if limit.percent else f"{limit.value} node{'s' * (limit.value != 1)}"


def _with_template(facts: Facts, warmimage: WarmImage, change: str) -> str:
    """The command that changes the template of the policy, or the spec of a WarmImage without one."""
    key, kind = _owner(facts, warmimage)
    spec = f'{{"template":{change}}}' if kind == "warmpolicy" else change
    return patch(kind, key, "merge", f'{{"spec":{spec}}}')


def _edit_nodes(facts: Facts, warmimage: WarmImage) -> str:
    """The command that opens whoever says which nodes are selected."""
    key, kind = _owner(facts, warmimage)
    return command("kubectl", "-n", key.namespace, "edit", kind, key.name)


def _owner(facts: Facts, warmimage: WarmImage) -> tuple[ObjectKey, str]:
    """Who says what the WarmImage asks for: its policy, or itself; key and kind."""
    if not warmimage.policy_label:
        return warmimage.key, "warmimage"
    states = () if isinstance(facts.policies, Unread) else facts.policies
    known = next((each.key for each in states if policy_label(each.key) == warmimage.policy_label), None)
    return known or replace(warmimage.key, name=warmimage.policy_name), "warmpolicy"


# --- line ------------------------------------------------------------------------------------------------------------


def line_check(facts: Facts, image: ImageState) -> Check:
    """Whether the node's ConfigMap has the line of the WarmImage as it should be."""
    if isinstance(facts.desired, Unread):
        message = f"the lines of the node could not be read: {facts.desired.problem}"
        return Check("line", "unknown", message, facts.desired.mend, "NotRead")
    key, desired = line_key(image.warmimage.key), facts.desired or DesiredState()
    wanted = line_of(permitted(image.warmimage))
    name = f"warmhook-desired-{facts.node_name}"
    if key in desired.refused:
        message = (
            f"node {facts.node_name} has no room for it: a node has {MAX_LINES} images, and each namespace its share"
        )
        mend = _with_template(facts, image.warmimage, '{"pull":{"priority":10}}')
        return Check("line", "wrong", f"{message}, by priority and age", mend, "TooManyLines")
    if key not in desired.lines:
        what = f"ConfigMap {name} has no line for it" if facts.desired else f"there is no ConfigMap {name}"
        return _unwritten(facts, image, f"{what}: the handlers have not written it", "NotWritten")
    try:
        have = read_line(key, desired.lines[key])
    except NotALine as error:
        message = f"the line in ConfigMap {name} cannot be read, perhaps somebody edited it: {clean(str(error))}"
        # Without the label the next sync writes the line again; without the ConfigMap the agent would forget all lines.
        kubectl = ("kubectl", "-n", facts.system_namespace)
        mend = command(*kubectl, "label", "configmap", name, f"{LINE_LABEL}{key}-")
        return Check("line", "wrong", message, mend, "Malformed")
    if _pulls_otherwise(have, wanted):
        return _unwritten(facts, image, f"the line of it in ConfigMap {name} is of an earlier state", "Outdated")
    digest = f", {have.digest[:19]}" if have.digest else ""
    return Check("line", "ok", f"ConfigMap {name} has it{digest}")


def _pulls_otherwise(have: Line, wanted: Line) -> bool:
    """Whether the line makes the node do something else than it should.

    Its version is not compared: other versions of the handlers may encode it otherwise.
    """
    return have.content != wanted.content or have.idle != wanted.idle


def _unwritten(facts: Facts, image: ImageState, message: str, reason: str) -> Check:
    """A line that the handlers should have written; one that just became due is on its way."""
    warmimage = image.warmimage
    changed = max(filter(None, (warmimage.pushed_at, warmimage.created_at)), default=None)
    age = (facts.now - changed).total_seconds() if changed is not None else FRESH_SECONDS
    system = ("-n", facts.system_namespace)
    mend = command("kubectl", *system, "rollout", "restart", "deployment", "warmhook-handlers")
    return Check("line", "waiting" if 0 <= age < FRESH_SECONDS else "wrong", message, mend, reason)
