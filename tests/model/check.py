"""Compare the cluster with the model, and describe all differences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from adapters.kubernetes import paths
from tests.model.check_nodes import node_differences
from tests.model.check_status import status_differences
from tests.model.history import Spec
from tests.model.model import Fact, ModelNode, image_name, must_have, outcomes, possible, short
from tests.model.wanted import Wanted, fact_of, key_of, wanted_of, where_of
from tests.model.world import RIVAL, UNREADABLE, World
from warmhook.ports import Object

__all__ = ["differences"]


def differences(world: World) -> list[str]:
    """Everything in which the cluster is not what the model says; empty where all is well."""
    return [*world.problems, *_differences(world)]


def _differences(world: World) -> Iterator[str]:
    images = {key_of(obj): obj for obj in world.items(paths.warmimages())}
    for policy in world.history.policies:
        owned = {key: obj for key, obj in images.items() if _label(obj, "policy") == short(policy, 16)}
        for key in owned:
            del images[key]
        yield from _warmimages(world, policy, owned)
    for key, obj in images.items():
        if _label(obj, "policy") and not key.startswith(f"{RIVAL}/"):
            yield f"WarmImage {key} belongs to nobody"
    lines: dict[str, dict[str, Wanted]] = {name: {} for name in world.nodes()}
    for obj in world.items(paths.warmimages()):
        yield from _warmimage(world, obj, lines)
    yield from node_differences(world, lines)


def _warmimage(world: World, obj: Object, lines: dict[str, dict[str, Wanted]]) -> Iterator[str]:
    """What is wrong with the status of a WarmImage; adds its line to those of its nodes."""
    if obj["metadata"].get("deletionTimestamp"):
        return  # a finalizer keeps the object, and nothing else
    namespace = obj["metadata"]["namespace"]
    writable = namespace != RIVAL or "PATCH" not in {verb for verb, _ in world.network.forbidden}
    if obj["spec"]["image"] == UNREADABLE:
        if writable:
            yield from _invalid(obj)
        return
    nodes = [ModelNode(name, labels) for name, labels in world.nodes().items()]
    wanted = wanted_of(obj, nodes, world.running(namespace))
    for node in wanted.lines:
        lines[node][short(wanted.key, 16)] = wanted
    if writable:
        yield from status_differences(world, obj, wanted)


# --- policies and WarmImages -----------------------------------------------------------------------------------------


def _warmimages(world: World, policy: str, owned: Mapping[str, Object]) -> Iterator[str]:
    history, end = world.history, world.now()
    spec = history.policies[policy][-1][1]
    facts = [fact_of(obj) for obj in owned.values()]
    for key, obj in owned.items():
        if key != f"{policy.partition('/')[0]}/{image_name(policy, fact_of(obj)[0])}":
            yield f"WarmImage {key} has the wrong name for {fact_of(obj)[0]}"
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
    for key, obj in owned.items():
        if (have := _template(obj)) != (wanted := _template_of(spec)):
            yield f"WarmImage {key} has template {have}, its policy {wanted}"


def _policy_status(world: World, policy: str, spec: Spec, images: int) -> Iterator[str]:
    namespace, _, name = policy.partition("/")
    obj = next(it for it in world.items(paths.warmpolicies()) if key_of(it) == f"{namespace}/{name}")
    status = obj.get("status") or {}
    ready = {it["type"]: it["status"] for it in status.get("conditions", [])}.get("Ready")
    if ready != str(not spec.invalid) or status.get("observedGeneration") != obj["metadata"]["generation"]:
        yield f"policy {policy}: status {status}, generation {obj['metadata']['generation']}, invalid {spec.invalid}"
    if status.get("images") != images:
        yield f"policy {policy}: status tells of {status.get('images')} images, there are {images}"


def _invalid(obj: Object) -> Iterator[str]:
    status = obj.get("status") or {}
    said = {(it["type"], it["status"], it["reason"]) for it in status.get("conditions", [])}
    if ("Ready", "False", "Invalid") not in said:
        yield f"WarmImage {key_of(obj)}: status {status} does not say that it cannot be read"


# --- reading objects -------------------------------------------------------------------------------------------------


def _template_of(spec: Spec) -> tuple[object, ...]:
    pull = (spec.pull, spec.priority, spec.pinned)
    asked = (spec.on_removal, spec.suspend, spec.purge, spec.refresh)
    return (spec.where, *pull, "Once" if spec.once else "Keep", spec.expire_seconds, *asked)


def _template(obj: Object) -> tuple[object, ...]:
    """What a WarmImage has of its policy."""
    spec, annotations = obj["spec"], obj["metadata"].get("annotations") or {}
    pull, life = spec["pull"], spec["lifetime"]
    return (
        where_of(spec["nodes"]),
        *(pull["policy"], pull["priority"], pull.get("pinned", False)),
        *(life.get("type"), life.get("expireAfterSeconds")),
        *(spec.get("onRemoval", "Retain"), spec.get("suspend", False)),
        "warmhook.dev/policy-purge" in annotations,
        annotations.get("warmhook.dev/policy-refresh", ""),
    )


def _label(obj: Object, name: str) -> str:
    label: str = (obj["metadata"].get("labels") or {}).get(f"warmhook.dev/{name}", "")
    return label


def _told(facts: Iterable[Fact]) -> str:
    return "{" + ", ".join(sorted(f"{image}@{digest[7:15]} {moment}" for image, digest, moment in facts)) + "}"
