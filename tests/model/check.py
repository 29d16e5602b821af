"""Compare the cluster with the model, and describe all differences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from adapters.kubernetes import paths
from tests.model.history import Image, Spec, Where
from tests.model.model import (
    SKEW,
    Fact,
    ModelNode,
    chosen_nodes,
    image_name,
    line_text,
    must_have,
    outcomes,
    possible,
    short,
)
from tests.model.world import NAMESPACE, RIVAL, UNREADABLE, World
from warmhook.ports import Object

__all__ = ["differences"]

_LINE = "line.warmhook.dev/"


def differences(world: World) -> list[str]:
    """Everything in which the cluster is not what the model says; empty where all is well."""
    return [*world.problems, *_differences(world)]


def _differences(world: World) -> Iterator[str]:
    nodes = [ModelNode(name, labels) for name, labels in world.nodes().items()]
    images = {_key(obj): obj for obj in world.items(paths.warmimages())}
    lines: dict[str, dict[str, tuple[str, Fact]]] = {node.name: {} for node in nodes}
    for policy in world.history.policies:
        owned = {key: obj for key, obj in images.items() if _label(obj, "policy") == short(policy, 16)}
        for key in owned:
            del images[key]
        yield from _warmimages(world, policy, owned)
    for key, obj in images.items():
        if _label(obj, "policy") and not key.startswith(f"{RIVAL}/"):
            yield f"WarmImage {key} belongs to nobody"
    for obj in world.items(paths.warmimages()):
        yield from _warmimage(world, obj, nodes, lines)
    configmaps = {obj["metadata"]["name"]: obj for obj in world.items(paths.configmaps(NAMESPACE))}
    uids = {node["metadata"]["name"]: node["metadata"]["uid"] for node in world.items(paths.NODES)}
    for name, wanted in lines.items():
        desired, report = configmaps.pop(f"warmhook-desired-{name}", {}), configmaps.pop(f"warmhook-report-{name}", {})
        yield from _desired(name, uids[name], desired, {key: text for key, (text, _) in wanted.items()})
        yield from _report(world, name, uids[name], report, wanted)
    yield from (f"ConfigMap {name} is of no node" for name in configmaps if name.startswith("warmhook-"))


def _warmimage(
    world: World, obj: Object, nodes: list[ModelNode], lines: dict[str, dict[str, tuple[str, Fact]]]
) -> Iterator[str]:
    """What is wrong with the status of a WarmImage; adds its line to those of its nodes."""
    if obj["metadata"].get("deletionTimestamp"):
        return  # a finalizer keeps the object, and nothing else
    writable = obj["metadata"]["namespace"] != RIVAL or "PATCH" not in {verb for verb, _ in world.network.forbidden}
    if obj["spec"]["image"] == UNREADABLE:
        if writable:
            yield from _invalid(obj)
        return
    key, fact, spec = _key(obj), _fact(obj), obj["spec"]
    chosen = chosen_nodes(str(fact[0]), _where(spec["nodes"]), nodes)
    text = line_text(key, fact, spec["pull"]["policy"], spec["pull"]["priority"])
    for node in chosen:
        lines[node][short(key, 16)] = (text, fact)
    if writable:
        yield from _status(obj, [_held(world, node, fact[0]) for node in chosen])


# --- policies and WarmImages -----------------------------------------------------------------------------------------


def _warmimages(world: World, policy: str, owned: Mapping[str, Object]) -> Iterator[str]:
    history, end = world.history, world.now()
    spec = history.policies[policy][-1][1]
    facts = [_fact(obj) for obj in owned.values()]
    for key, obj in owned.items():
        if key != f"{policy.partition('/')[0]}/{image_name(policy, _fact(obj)[0])}":
            yield f"WarmImage {key} has the wrong name for {_fact(obj)[0]}"
    spared = {fact[0] for fact in facts if spec is not None and spec.spares(fact[0]) and not spec.wants(fact[0])}
    yield from (f"{policy}: {image} cannot be there" for image in spared - possible(history, policy, end))
    yield from (f"{policy}: {image} is missing" for image in must_have(history, policy, end) - spared)
    for repository in {push.image.repository for push in history.pushes} | {fact[0].repository for fact in facts}:
        right = outcomes(history, policy, repository, end)
        found = frozenset(fact for fact in facts if fact[0].repository == repository and fact[0] not in spared)
        if right is not None and found not in right:
            yield f"{policy}: WarmImages {_told(found)}, should be {' or '.join(map(_told, right))}"
    if spec is None:
        return
    yield from _policy_status(world, policy, spec, len(facts))
    wanted = _template(spec.where, spec.pull, spec.priority, spec.expire_seconds)
    for key, obj in owned.items():
        its, pull, life = obj["spec"], obj["spec"]["pull"], obj["spec"]["lifetime"]
        have = _template(_where(its["nodes"]), pull["policy"], pull["priority"], life.get("expireAfterSeconds"))
        if have != wanted:
            yield f"WarmImage {key} has template {have}, its policy {wanted}"


def _policy_status(world: World, policy: str, spec: Spec, images: int) -> Iterator[str]:
    namespace, _, name = policy.partition("/")
    obj = next(it for it in world.items(paths.warmpolicies()) if _key(it) == f"{namespace}/{name}")
    status = obj.get("status") or {}
    ready = {it["type"]: it["status"] for it in status.get("conditions", [])}.get("Ready")
    if ready != str(not spec.invalid) or status.get("observedGeneration") != obj["metadata"]["generation"]:
        yield f"policy {policy}: status {status}, generation {obj['metadata']['generation']}, invalid {spec.invalid}"
    if status.get("images") != images:
        yield f"policy {policy}: status tells of {status.get('images')} images, there are {images}"


def _status(obj: Object, held: list[str]) -> Iterator[str]:
    """`held` are the digests that the WarmImage's nodes have."""
    status, key, chosen = obj.get("status") or {}, _key(obj), len(held)
    counts = {name: status.get(name) for name in ("desired", "warm", "pulling", "waiting", "failed", "unreachable")}
    right = {"desired": chosen, "warm": chosen, "pulling": 0, "waiting": 0, "failed": 0, "unreachable": 0}
    if counts != right:
        yield f"WarmImage {key}: status {counts}, should be {right}"
    if status.get("observedGeneration") != obj["metadata"]["generation"]:
        yield f"WarmImage {key}: status is of generation {status.get('observedGeneration')}"
    digest = obj["spec"].get("digest")
    if status.get("digest") != (digest if set(held) <= {digest} else None):
        yield f"WarmImage {key}: status tells of {status.get('digest')}"
    if chosen and "completedAt" not in status:
        yield f"WarmImage {key}: was never complete on {chosen} nodes"


def _invalid(obj: Object) -> Iterator[str]:
    status = obj.get("status") or {}
    said = {(it["type"], it["status"], it["reason"]) for it in status.get("conditions", [])}
    if ("Ready", "False", "Invalid") not in said:
        yield f"WarmImage {_key(obj)}: status {status} does not say that it cannot be read"


# --- nodes -----------------------------------------------------------------------------------------------------------


def _desired(node: str, uid: str, obj: Object, wanted: Mapping[str, str]) -> Iterator[str]:
    if not obj and not wanted:
        return
    if obj.get("data", {}) != wanted:
        yield f"{node}: lines {obj.get('data', {})}, should be {dict(wanted)}"
    if obj and _lines(obj) != {key: short(text, 8) for key, text in wanted.items()}:
        yield f"{node}: labels {_lines(obj)} of lines {dict(wanted)}"
    yield from _owned(obj, node, uid, "desired")


def _report(world: World, node: str, uid: str, obj: Object, wanted: Mapping[str, tuple[str, Fact]]) -> Iterator[str]:
    if not obj and not wanted:
        return
    listed = obj.get("metadata", {}).get("annotations", {}).get("warmhook.dev/warm", "").split(",")
    said = {version.removesuffix("~") for version in listed if version}
    if said != {short(text, 8) for text, _ in wanted.values()}:
        lines = [f"{short(text, 8)} {text}" for text, _ in wanted.values()]
        yield f"{node}: reports {sorted(said)} as warm, has lines {lines}"
    if obj and _lines(obj):
        yield f"{node}: reports {_lines(obj)} as not warm"
    yield from _owned(obj, node, uid, "report")
    moved = {}
    for key, (_text, fact) in wanted.items():
        held = _held(world, node, fact[0])
        if held not in _may_hold(world, fact):
            yield f"{node}: {fact[0]} is {held or 'absent'}, should be one of {_may_hold(world, fact)}"
        if fact[1] and held != fact[1]:
            moved[key] = {"moved": held}
    told = {key: json.loads(text) for key, text in obj.get("data", {}).items()}
    if told != moved:
        yield f"{node}: the report's details are {told}, should be {moved}"


def _held(world: World, node: str, image: Image) -> str:
    """The digest that a node has under the name a Pod would use; empty where it has none."""
    listed = world.runtimes[node].listed
    identity = listed.get(str(image))
    prefix = f"{image.repository}@"
    digests = [
        name.removeprefix(prefix) for name, each in listed.items() if each == identity and name.startswith(prefix)
    ]
    return digests[0] if identity and digests else ""


def _may_hold(world: World, fact: Fact) -> set[str]:
    """What a node may have of an image: what was pushed last, and what a tag was while it was not."""
    image, digest, moment = fact
    if ":" in image.tag:
        return {digest}
    history = world.history.registry.get(str(image), [])
    if digest:
        # Another one only where the tag has moved, though the event of that does not count as the newest.
        return {digest} if history and history[-1][1] == digest else {digest, *(it for _, it in history)}
    if moment is None:
        return {it for _, it in history}
    # Whatever the tag was then or since: nobody need take the push that moved it, and then nothing says so.
    untils = [since for since, _ in history[1:]] + [datetime.max.replace(tzinfo=moment.tzinfo)]
    # The moment may be a receipt by a clock that is ahead, and then a push with a true time is the older one.
    return {it for (_, it), until in zip(history, untils, strict=True) if until > moment - SKEW}


def _owned(obj: Object, node: str, uid: str, kind: str) -> Iterator[str]:
    if not obj:
        return
    metadata = obj["metadata"]
    owners = [(it["kind"], it["name"], it["uid"]) for it in metadata.get("ownerReferences", [])]
    if owners != [("Node", node, uid)]:
        yield f"{node}: the {kind} ConfigMap belongs to {owners}, the Node has uid {uid}"
    if metadata.get("managedFields"):
        yield f"{node}: fields of the {kind} ConfigMap are tracked"
    if _label(obj, "kind") != kind or metadata["annotations"].get("warmhook.dev/node") != node:
        yield f"{node}: the {kind} ConfigMap is marked {metadata['labels']} {metadata['annotations']}"


# --- reading objects -------------------------------------------------------------------------------------------------


def _fact(obj: Object) -> Fact:
    spec = obj["spec"]
    separator = "@" if "@" in spec["image"] else ":"
    repository, _, tag = spec["image"].partition("@") if separator == "@" else spec["image"].rpartition(":")
    moment = datetime.fromisoformat(spec["pushedAt"]) if spec.get("pushedAt") else None
    return Image(repository, tag), spec.get("digest", ""), moment


def _where(nodes: Object) -> Where:
    expressions = (nodes.get("selector") or {}).get("matchExpressions") or []
    labels = (nodes.get("selector") or {}).get("matchLabels") or {}
    pool = labels.get("pool") or next((it["values"][0] for it in expressions), "")
    return Where(pool, tuple(nodes.get("names") or ()), nodes.get("limit"))


def _template(where: Where, pull: str, priority: int, expire_seconds: int | None) -> tuple[object, ...]:
    return (where, pull, priority, expire_seconds)


def _key(obj: Object) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _label(obj: Object, name: str) -> str:
    label: str = (obj["metadata"].get("labels") or {}).get(f"warmhook.dev/{name}", "")
    return label


def _lines(obj: Object) -> dict[str, str]:
    labels = obj["metadata"].get("labels") or {}
    return {name.removeprefix(_LINE): value for name, value in labels.items() if name.startswith(_LINE)}


def _told(facts: Iterable[Fact]) -> str:
    return "{" + ", ".join(sorted(f"{image}@{digest[7:15]} {moment}" for image, digest, moment in facts)) + "}"
