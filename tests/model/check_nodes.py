"""Compare the ConfigMaps and the images of nodes with the model, and describe all differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from adapters.kubernetes import paths
from tests.model.check_removals import removal_differences
from tests.model.history import Image
from tests.model.model import SKEW, short
from tests.model.wanted import Wanted
from tests.model.world import NAMESPACE, World
from warmhook.ports import Object

__all__ = ["digests_since", "held", "is_reported_warm", "node_differences"]

_LINE = "line.warmhook.dev/"
_HINT, _EXPIRY = ".hint", "hint.warmhook.dev/"
_OURS, _PIN = "warmhook.dev/pinned", "io.cri-containerd.pinned"


def node_differences(world: World, lines: Mapping[str, Mapping[str, Wanted]]) -> Iterator[str]:
    """`lines` are those of each node, by the key of the line."""
    configmaps = {obj["metadata"]["name"]: obj for obj in world.items(paths.configmaps(NAMESPACE))}
    uids = {node["metadata"]["name"]: node["metadata"]["uid"] for node in world.items(paths.NODES)}
    for name, wanted in lines.items():
        desired, report = configmaps.pop(f"warmhook-desired-{name}", {}), configmaps.pop(f"warmhook-report-{name}", {})
        yield from _desired(name, uids[name], desired, {key: it.text for key, it in wanted.items()})
        yield from _report(name, uids[name], report, wanted)
        yield from _images(world, name, report, wanted)
        yield from _pulls(world, name, wanted)
        yield from _pins(world, name, wanted)
        yield from removal_differences(world, name, wanted)
    yield from (f"ConfigMap {name} is of no node" for name in configmaps if name.startswith("warmhook-"))


def _desired(node: str, uid: str, obj: Object, wanted: Mapping[str, str]) -> Iterator[str]:
    if not obj and not wanted:
        return
    data, metadata = obj.get("data", {}), obj["metadata"]
    lines = {key: text for key, text in data.items() if not key.endswith(_HINT)}
    if lines != wanted:
        yield f"{node}: lines {lines}, should be {dict(wanted)}"
    hints = {key.removesuffix(_HINT): json.loads(data[key]) for key in data.keys() - lines.keys()}
    expiries = {
        key.rpartition("/")[2]: text for key, text in metadata["annotations"].items() if key.startswith(_EXPIRY)
    }
    if expiries != {key: str(hint["e"]) for key, hint in hints.items()}:
        yield f"{node}: annotations of hints {expiries}, hints {hints}"
    for key, hint in hints.items():
        if node in {name for name, *_ in hint.get("p", []) + hint.get("c", [])}:
            yield f"{node}: gets line {key} from itself: {hint}"
    if obj and _lines(obj) != {key: short(text, 8) for key, text in wanted.items()}:
        yield f"{node}: labels {_lines(obj)} of lines {dict(wanted)}"
    yield from _owned(obj, node, uid, "desired")


def _report(node: str, uid: str, obj: Object, wanted: Mapping[str, Wanted]) -> Iterator[str]:
    if not obj and not wanted:
        return
    said, labels = _said(obj), _lines(obj)
    active = {short(it.text, 8): it.text for it in wanted.values() if not it.idle}
    idle = {key: short(it.text, 8) for key, it in wanted.items() if it.idle}
    if said - set(idle.values()) != active.keys():
        yield f"{node}: reports {sorted(said)} as warm, has lines {active}, and idle {idle}"
    right = {key: f"waiting-{version}" for key, version in idle.items() if version not in said}
    if labels != right:
        yield f"{node}: reports {labels} as not warm, should be {right}"
    yield from _owned(obj, node, uid, "report")


def _images(world: World, node: str, report: Object, wanted: Mapping[str, Wanted]) -> Iterator[str]:
    """What a node has of its lines, and what it says of them."""
    moved = {}
    for key, line in wanted.items():
        image, digest, _ = line.fact
        have = held(world, node, image)
        if line.idle:
            if is_reported_warm(report, line) and not have:
                yield f"{node}: reports {image} as warm and has nothing"
            continue
        if have not in _may_hold(world, line):
            yield f"{node}: {image} is {have or 'absent'}, should be one of {_may_hold(world, line)}"
        if digest and have != digest:
            moved[key] = {"moved": have}
    told = {key: json.loads(text) for key, text in report.get("data", {}).items() if not wanted[key].idle}
    if told != moved:
        yield f"{node}: the report's details are {told}, should be {moved}"


def _pulls(world: World, node: str, wanted: Mapping[str, Wanted]) -> Iterator[str]:
    """Pulls that began for nothing but lines that are suspended or purged."""
    if node not in world.settled_pulls:
        return
    active = {str(line.fact[0]) for line in wanted.values() if not line.idle}
    begun = world.runtimes[node].pulls[world.settled_pulls[node] :]
    yield from (f"{node}: {image} is pulled for nobody" for image in begun if image not in active)


def _pins(world: World, node: str, wanted: Mapping[str, Wanted]) -> Iterator[str]:
    """Names are pinned where containerd is, and nothing else is pinned."""
    runtime = world.runtimes[node]
    pinned = [line for line in wanted.values() if line.pinned and (line.suspended or not line.purged)]
    held_ids = {runtime.listed.get(str(line.fact[0])) for line in pinned}
    for name, image_id in runtime.listed.items():
        labels = runtime.labels.get(name, {})
        if _OURS in labels and image_id not in held_ids:
            yield f"{node}: {name} is pinned for nobody"
        if any(name == str(line.fact[0]) for line in pinned) and (_PIN in labels) != world.has_pins:
            yield f"{node}: {name} has the labels {labels}, and a line that pins it"


def is_reported_warm(report: Object, line: Wanted) -> bool:
    return short(line.text, 8) in _said(report)


def _said(report: Object) -> set[str]:
    """The versions that a report tells to be warm."""
    listed = report.get("metadata", {}).get("annotations", {}).get("warmhook.dev/warm", "").split(",")
    return {version.removesuffix("~") for version in listed if version}


def held(world: World, node: str, image: Image) -> str:
    """The digest that a node has under the name a Pod would use; empty where it has none."""
    listed = world.runtimes[node].listed
    identity = listed.get(str(image))
    prefix = f"{image.repository}@"
    digests = [
        name.removeprefix(prefix) for name, each in listed.items() if each == identity and name.startswith(prefix)
    ]
    return digests[0] if identity and digests else ""


def _may_hold(world: World, wanted: Wanted) -> set[str]:
    """What a node may have of an image: what was pushed last, and what a tag was while it was not."""
    image, digest, moment = wanted.fact
    if ":" in image.tag:
        return {digest}
    history = world.history.registry.get(str(image), [])
    if wanted.refreshed is not None:
        # Every node pulled the tag again then, or later.
        return digests_since(history, wanted.refreshed)
    if digest:
        # Another one only where the tag has moved, though the event of that does not count as the newest.
        return {digest} if history and history[-1][1] == digest else {digest, *(it for _, it in history)}
    if moment is None:
        return {it for _, it in history}
    # Whatever the tag was then or since: nobody need take the push that moved it, and then nothing says so.
    return digests_since(history, moment)


def digests_since(history: Sequence[tuple[datetime, str]], moment: datetime) -> set[str]:
    """What a tag was at a moment of some clock, and after it."""
    if not history:
        return set()
    untils = [since for since, _ in history[1:]] + [datetime.max.replace(tzinfo=moment.tzinfo)]
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


def _label(obj: Object, name: str) -> str:
    label: str = (obj["metadata"].get("labels") or {}).get(f"warmhook.dev/{name}", "")
    return label


def _lines(obj: Object) -> dict[str, str]:
    labels = obj.get("metadata", {}).get("labels") or {}
    return {name.removeprefix(_LINE): value for name, value in labels.items() if name.startswith(_LINE)}
