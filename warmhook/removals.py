"""Decide which images an agent removes from its node. What is unknown is kept.

An image is removed only if the agent brought it, all of its names come from pulls for lines that say `Delete`, and no
line, container, Pod or pin keeps it. The caller looks twice, `TWICE_SECONDS` apart, before it removes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from warmhook.admission_review import named_images
from warmhook.images import DOCKER_HUB, NotAReference, Reference, parse_reference
from warmhook.node_lines import Line
from warmhook.ports import RuntimeImage
from warmhook.warmimages import OnRemoval

TWICE_SECONDS: Final = 60.0
"""The time between the two looks that must agree."""
RECORDS_MAX: Final = 4096
"""Far above the images of a node; the images of further records are kept."""
LINES_MAX: Final = 512
"""Lines of one record; an image that more lines named is kept."""
# The names of a node's lines, images and Pods are read again after each check.
_CACHED: Final = 4096

KeepReason: TypeAlias = Literal[
    "NotPulledHere", "OtherName", "Retained", "NoRoom", "Wanted", "Pulling", "Pinned", "InUse", "NamedByPod"
]
KEPT_BECAUSE: Final[Mapping[KeepReason, str]] = {
    "NotPulledHere": "this agent did not pull it, or it was on the node before",
    "OtherName": "it has a name that no pull of this agent gave it",
    "Retained": "a WarmImage that named it has onRemoval: Retain",
    "NoRoom": "a WarmImage that named it is wanted here and has no room among the lines of the node",
    "Wanted": "a WarmImage wants it on this node",
    "Pulling": "an image of the same repository is being pulled",
    "Pinned": "it is pinned",
    "InUse": "a container or a Pod sandbox uses it",
    "NamedByPod": "a Pod of this node names it",
}


Decisions: TypeAlias = Mapping[str, KeepReason | None]
"""By image ID; `None`: the image may be removed."""


class UnreadablePod(ValueError):
    """An image of a Pod cannot be read, so it could be any; the message names the Pod."""


@dataclass(frozen=True, slots=True)
class Brought:
    """An image that the agent pulled while no name of its ID was on the node."""

    names: frozenset[str]
    """The names that pulls of this agent gave it and that it has had since, as the runtime lists them."""
    lines: Mapping[str, OnRemoval]
    """Key of each line that named it, also of lines that went, to what the line said last."""


Records: TypeAlias = Mapping[str, Brought]
"""By image ID."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the agent and the ConfigMap of its node say about images."""

    lines: Collection[Line] = ()
    """All of them, those beyond the limit of the node too; one WarmImage may have several."""
    refused: Collection[str] = ()
    """Keys of lines that are wanted and have no room in the ConfigMap."""
    pulling: Collection[str] = ()
    """The images of running pulls."""


@dataclass(frozen=True, slots=True)
class Use:
    """What uses images on the node. Each is a name or an ID."""

    containers: Collection[str] = ()
    """Of containers in any state, and of Pod sandboxes."""
    pods: Collection[str] = ()
    """Of the Pods of the node, as their authors wrote them."""


def decide(images: Iterable[RuntimeImage], records: Records, demand: Demand, use: Use) -> Decisions:
    """Why each image of the runtime stays, by ID; `None` for those that may be removed."""
    wanted = {mark for line in demand.lines if not line.gives_up for mark in _marks_of_line(line)}
    pulling = set(map(repository, demand.pulling))
    containers, pods = _marks(use.containers), _marks(use.pods)

    def reason(image: RuntimeImage) -> KeepReason | None:
        record = records.get(image.id)
        if record is None:
            return "NotPulledHere"
        marks = _marks_of_image(image)
        checks: dict[KeepReason, bool] = {
            "Wanted": not marks.isdisjoint(wanted),
            "OtherName": not record.names.issuperset((*image.tags, *image.digests)),
            "Retained": not record.lines or any(said != "Delete" for said in record.lines.values()),
            "NoRoom": not record.lines.keys().isdisjoint(demand.refused),
            "Pulling": not repositories(image).isdisjoint(pulling),
            "Pinned": image.pinned,
            "InUse": not marks.isdisjoint(containers),
            "NamedByPod": not marks.isdisjoint(pods),
        }
        return next((name for name, keeps in checks.items() if keeps), None)

    return {image.id: reason(image) for image in images}


def after_pull(
    records: Records,
    reference: str,
    before: Iterable[RuntimeImage],
    after: RuntimeImage,
    lines: Iterable[Line],
    brought_since: Collection[str] = (),
) -> Records:
    """Add what a pull of `reference` for `lines` brought: an image that was new to the node, or a new name of one.

    `before` is what the runtime listed when the pull began, `after` the image that has the reference now.
    `brought_since` are IDs that other pulls of the agent have brought since: two tags of an image may come at once.
    """
    had = {image.id: {*image.tags, *image.digests} for image in before}
    known = after.id in had or after.id in brought_since
    record = records.get(after.id) if known else Brought(frozenset(), {})
    if record is None:
        return records
    prefix = f"{parse_reference(reference).name}@"
    given = {name for name in (*after.tags, *after.digests) if name == reference or name.startswith(prefix)}
    names = record.names | (given - had.get(after.id, set()))
    said = {line.key: _said(line) for line in lines}
    return {**records, after.id: Brought(names, {**record.lines, **said})}


def after_list(records: Records, images: Iterable[RuntimeImage]) -> Records:
    """Drop what the runtime no longer lists: images, and names that went to another image.

    Beyond `RECORDS_MAX` the oldest records are dropped too, and those with more than `LINES_MAX` lines.
    """
    listed = {image.id: {*image.tags, *image.digests} for image in images}
    kept = [
        (image_id, replace(record, names=record.names & listed[image_id]))
        for image_id, record in records.items()
        if image_id in listed and len(record.lines) <= LINES_MAX
    ]
    return dict(kept[-RECORDS_MAX:])


def after_lines(records: Records, lines: Mapping[str, Line], images: Iterable[RuntimeImage]) -> Records:
    """Note what the lines of the node say now. A line that went keeps what it said last."""
    naming: defaultdict[str, set[str]] = defaultdict(set)
    for key, line in lines.items():
        for mark in _marks_of_line(line):
            naming[mark].add(key)
    keys = {
        image.id: set[str]().union(*(naming[mark] for mark in _marks_of_image(image) & naming.keys()))
        for image in images
        if image.id in records
    }
    return {
        image_id: replace(
            record,
            lines={
                **record.lines,
                **{key: _said(lines[key]) for key in keys.get(image_id, set()) | (record.lines.keys() & lines.keys())},
            },
        )
        for image_id, record in records.items()
    }


@lru_cache(_CACHED)
def repository(reference: str) -> str:
    """The canonical repository of a reference."""
    return parse_reference(reference).canonical.name


def repositories(image: RuntimeImage) -> set[str]:
    """The canonical repositories of all names of the image."""
    return {mark.repository for mark in map(_listed, (*image.tags, *image.digests)) if mark}


def pod_images(pod: Mapping[str, Any]) -> list[str]:
    """The images of a Pod: init containers, containers, ephemeral containers and image volumes, as they are written.

    Raises `UnreadablePod`.
    """
    spec, metadata = pod.get("spec"), pod.get("metadata") or {}
    images = [image for _, image in named_images(spec if isinstance(spec, dict) else {})]
    texts = [image for image in images if isinstance(image, str) and _is_reference(image)]
    if not texts or len(texts) < len(images):
        unreadable = next((image for image in images if image not in texts), "it has no containers")
        raise UnreadablePod(f"Pod {metadata.get('namespace')}/{metadata.get('name')}: {unreadable!r}")
    return texts


def _is_reference(text: str) -> bool:
    try:
        parse_reference(text, default_tag="latest")
    except NotAReference:
        return False
    return True


# What a text and the image that it means have in common is called a mark here: an ID, a digest without the rest of the
# name, or a canonical name. A name without a host may be of any host: runtimes can have several registries for those.


def _marks(texts: Iterable[str]) -> set[str]:
    """The marks of the images that `texts` mean: names as Pods and containers have them, or IDs."""
    return {mark for text in texts for mark in _marks_of_text(text)}


@lru_cache(_CACHED)
def _marks_of_text(text: str) -> tuple[str, ...]:
    try:
        reference = parse_reference(text, default_tag="latest")
    except NotAReference:
        return (_bare(text),)
    short = reference.host == DOCKER_HUB and not text.startswith((f"{DOCKER_HUB}/", f"index.{DOCKER_HUB}/"))
    return _bare(text), reference.digest or (_anywhere(reference) if short else str(reference.canonical))


def _marks_of_line(line: Line) -> set[str]:
    return {*_marks_of_text(line.image), *([line.digest] if line.digest else [])}


def _marks_of_image(image: RuntimeImage) -> set[str]:
    """Whatever means the image has one of these marks."""
    names = [name for name in map(_listed, (*image.tags, *image.digests)) if name]
    return {_bare(image.id)}.union(*(name.marks for name in names))


class _Listed(NamedTuple):
    """A name of an image in the list of the runtime."""

    repository: str
    marks: tuple[str, ...]


@lru_cache(_CACHED)
def _listed(name: str) -> _Listed | None:
    """`None` if the name is no reference: other clients can give an image any name."""
    try:
        reference = parse_reference(name)
    except NotAReference:
        return None
    marks = (reference.digest,) if reference.digest else (str(reference.canonical), _anywhere(reference))
    return _Listed(reference.canonical.name, marks)


def _said(line: Line) -> OnRemoval:
    return "Delete" if line.gives_up or line.on_removal == "Delete" else "Retain"


def _anywhere(reference: Reference) -> str:
    """The reference without its host."""
    return f"*/{reference.repository.removeprefix('library/')}:{reference.tag}"


def _bare(image_id: str) -> str:
    # CRI-O has IDs without the algorithm.
    return image_id.removeprefix("sha256:")
