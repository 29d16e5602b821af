"""Preview what a policy or a WarmImage would bring to nodes, before it is applied.

Only what is known is counted: sizes come from registries and kubelets, and what is on a node from its report and from
the list of its kubelet, which names its 50 largest images
(https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/, nodeStatusMaxImages).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias

from warmhook.disk_space import DEFAULT_FACTOR
from warmhook.distribution import Candidate, Outcome, Rates, direct_seconds, plan
from warmhook.images import Reference
from warmhook.limits import NO_RULES, Tenancy
from warmhook.node_lines import Line, line_key, line_of, over_budget
from warmhook.node_report import Report
from warmhook.peer_rates import DEFAULT_RATES, measured_rates
from warmhook.placement import Node, RunningNodes, lacks_platform, place_each, pod_queries
from warmhook.policies import Policy
from warmhook.tenancy import permitted
from warmhook.warmimages import ObjectKey, Template, WarmImage, warmimage_name

Change: TypeAlias = Literal["new", "changed", "kept", "removed", "next push"]
"""`next push`: the newest known build of a repository that a rule takes; nodes get what is pushed next instead."""

MIN_FREE_PERCENT: Final = 20
"""What agents leave free on the disk, unless `WARMHOOK_MIN_FREE_PERCENT` says otherwise."""
_PLANNED_MAX: Final = 32
"""Images whose distribution is planned, the largest ones: a plan for 5,000 nodes takes 0.1 s."""
_ORDER: Final[Sequence[Change]] = ("new", "changed", "kept", "next push", "removed")
_ANY_IMAGE: Final = Reference("registry.invalid", "any", "any")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of a node."""

    node: Node
    lines: frozenset[str] = frozenset()
    """Keys of its lines, with those that have no room."""
    refused: frozenset[str] = frozenset()
    """Those of them that have no room."""
    report: Report | None = None
    """`None`: its agent has written none."""
    listed: frozenset[str] = frozenset()
    """Names of images that its kubelet lists."""
    listed_bytes: int = 0
    """Their sizes together, as its runtime lists them."""
    disk_bytes: int = 0
    """Of the file system that its kubelet reports; 0: unknown. Images may be on another one."""
    disk_pressure: bool = False

    @property
    def usable_bytes(self) -> float:
        """The most that images may still take, an upper bound: containers and logs take room as well."""
        return self.disk_bytes * (100 - MIN_FREE_PERCENT) / 100 - self.listed_bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the cluster."""

    now: datetime
    nodes: Sequence[NodeFacts]
    warmimages: Mapping[ObjectKey, WarmImage] = field(default_factory=dict)
    """All that could be read."""
    running: RunningNodes = field(default_factory=dict)
    """By query the nodes of Pods; a query that is missing could not be read."""
    tenancy: Tenancy = NO_RULES
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Compressed bytes by the name of an image, canonical, with tag or digest."""
    rates: Rates = DEFAULT_RATES
    """Until nodes have measured it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is about to be applied: one policy or WarmImage."""

    kind: Literal["WarmPolicy", "WarmImage"]
    key: ObjectKey
    template: Template
    before: Sequence[WarmImage] = ()
    """Its WarmImages as they are."""
    after: Sequence[WarmImage] = ()
    """Its WarmImages once it is applied."""
    later: Sequence[WarmImage] = ()
    """One for the newest known build of each repository whose next push it takes."""
    template_before: Template | None = None
    """`None`: it is new."""


@dataclass(frozen=True, slots=True)
class ImagePreview:
    """One image across its nodes."""

    warmimage: ObjectKey
    image: str
    change: Change
    nodes: frozenset[str] = frozenset()
    """That should have it; of one that is removed, those that have its line."""
    present: frozenset[str] = frozenset()
    """Those of them that have it already."""
    lacking: frozenset[str] = frozenset()
    """Those of them for whose platform it was not built."""
    size_bytes: int = 0
    """Compressed; 0: unknown."""
    outcome: Outcome | Literal[""] = ""
    """How nodes would get it; empty: not planned."""
    readers: int = 0
    """Nodes that read the registry at the same time."""
    seconds: float = 0.0
    """An estimate for all nodes; 0: unknown."""
    pods_unknown: bool = False
    """Whether it depends on Pods that could not be read."""

    key: str = field(init=False)
    """Of its line."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", line_key(self.warmimage))

    @property
    def pulling(self) -> frozenset[str]:
        """The nodes that would pull it."""
        return self.nodes - self.present - self.lacking


@dataclass(frozen=True, slots=True)
class Preview:
    """What one policy or WarmImage would do."""

    wanted: Wanted
    selected: frozenset[str]
    """Names of the nodes that the template selects, before its limit and without regard to Pods."""
    images: tuple[ImagePreview, ...]
    nodes_added: frozenset[str] = frozenset()
    nodes_removed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodePreview:
    """What all that is about to be applied would bring to one node."""

    facts: NodeFacts
    lines_before: int = 0
    lines_after: int = 0
    pulls: int = 0
    pull_bytes: int = 0
    """Compressed bytes, without images of unknown size."""
    unknown_sizes: int = 0
    refused: frozenset[ObjectKey] = frozenset()
    """What would have no room among its lines and has now, or is new."""

    @property
    def needed_bytes(self) -> float:
        """About what the pulls take on the disk."""
        return self.pull_bytes * DEFAULT_FACTOR

    @property
    def fits(self) -> bool | None:
        """Whether the disk has room; `None` if nothing shows that it has not, and it cannot be known."""
        if self.facts.disk_pressure and self.pulls:
            return False
        if not self.facts.disk_bytes:
            return None
        return self.needed_bytes <= self.facts.usable_bytes


def later_pushes(policy: Policy, known: Iterable[WarmImage], owned: Collection[WarmImage]) -> list[WarmImage]:
    """For each repository of which a rule takes the newest known push: that image, as the policy would have it."""
    mine = {warmimage.image.canonical.name for warmimage in owned if warmimage.pod_origin is None}
    newest: dict[str, WarmImage] = {}
    for warmimage in known:
        name = warmimage.image.canonical.name
        if warmimage.pushed_at is None or warmimage.pod_origin is not None or name in mine:
            continue
        if policy.wants(warmimage.image) and not policy.names(warmimage.image):
            best = newest.get(name)
            if best is None or (best.pushed_at is not None and best.pushed_at < warmimage.pushed_at):
                newest[name] = warmimage
    return [
        replace(
            warmimage,
            key=ObjectKey(policy.key.namespace, warmimage_name(policy.key, warmimage.image)),
            template=policy.template,
            policy_name=policy.key.name,
        )
        for _, warmimage in sorted(newest.items())
    ]


def preview(wanted: Wanted, facts: Facts) -> Preview:
    """What `wanted` would do, by the functions that handlers place images with."""
    before = {warmimage.key: warmimage for warmimage in wanted.before}
    after = {warmimage.key for warmimage in wanted.after}
    holders = _Holders(facts)
    previews = []
    for warmimage, nodes in _placed([*wanted.after, *wanted.later], facts):
        old = before.get(warmimage.key)
        change: Change = "new" if old is None else "kept" if old.template == warmimage.template else "changed"
        if warmimage.key not in after:
            change = "next push"
        previews.append(_image_preview(warmimage, change, nodes, holders))
    for key in sorted(before.keys() - after):
        at = frozenset(each.node.name for each in facts.nodes if line_key(key) in each.lines)
        previews.append(ImagePreview(key, str(before[key].image), "removed", at, size_bytes=holders.size(before[key])))
    selected = _selected(wanted.template, wanted.key.namespace, facts)
    old_template = wanted.template_before
    selected_before = selected if old_template is None else _selected(old_template, wanted.key.namespace, facts)
    return Preview(
        wanted,
        selected,
        tuple(_with_plans(previews, wanted, facts)),
        selected - selected_before,
        selected_before - selected,
    )


def preview_nodes(previews: Sequence[Preview], facts: Facts) -> list[NodePreview]:
    """What all of them together would bring to each node that one of them concerns; most bytes first."""
    put: defaultdict[str, list[ImagePreview]] = defaultdict(list)
    pulls: defaultdict[str, list[ImagePreview]] = defaultdict(list)
    for image in (image for each in previews for image in each.images):
        if image.change in ("new", "changed", "kept"):
            for name in image.nodes:
                put[name].append(image)
            for name in image.pulling:
                pulls[name].append(image)
    mine = {line_key(warmimage.key) for each in previews for warmimage in each.wanted.before}
    room = _Room(previews, facts)
    found = []
    for each in facts.nodes:
        name, gone = each.node.name, mine & each.lines
        if put[name] or gone:
            after = each.lines.difference(gone).union(image.key for image in put[name])
            found.append(_node_preview(each, after, pulls[name], room))
    return sorted(found, key=lambda node: (-node.pull_bytes, -node.pulls, node.facts.node.name))


def _node_preview(facts: NodeFacts, after: frozenset[str], pulls: Sequence[ImagePreview], room: _Room) -> NodePreview:
    return NodePreview(
        facts,
        len(facts.lines),
        len(after),
        len(pulls),
        sum(image.size_bytes for image in pulls),
        sum(not image.size_bytes for image in pulls),
        frozenset(room.keys[key] for key in room.refused(after) - facts.refused),
    )


class _Room:
    """Which lines have no room; many nodes have the same lines."""

    def __init__(self, previews: Iterable[Preview], facts: Facts) -> None:
        known = dict(facts.warmimages)
        for each in previews:
            known |= {warmimage.key: warmimage for warmimage in each.wanted.after}
        self.lines: dict[str, Line] = {
            line_key(key): line_of(_limited(one, facts.tenancy)) for key, one in known.items()
        }
        self.keys = {line_key(key): key for key in known}
        self.tenancy = facts.tenancy
        self._known: dict[frozenset[str], frozenset[str]] = {}

    def refused(self, lines: frozenset[str]) -> frozenset[str]:
        if lines not in self._known:
            given = [self.lines[key] for key in sorted(lines) if key in self.lines]
            self._known[lines] = over_budget(given, self.tenancy)
        return self._known[lines]


class _Holders:
    """Which nodes have an image already, and how large it is."""

    def __init__(self, facts: Facts) -> None:
        self._sizes, self._warmimages = dict(facts.sizes), defaultdict[str, list[WarmImage]](list)
        self.warm: defaultdict[str, set[str]] = defaultdict(set)
        self.listed: defaultdict[str, set[str]] = defaultdict(set)
        self.nodes = {each.node.name: each for each in facts.nodes}
        for warmimage in facts.warmimages.values():
            self._warmimages[warmimage.image.as_run.canonical.name].append(warmimage)
        for each in facts.nodes:
            for version in each.report.warm if each.report is not None else ():
                self.warm[version].add(each.node.name)
            for name in each.listed:
                self.listed[name].add(each.node.name)

    def of(self, warmimage: WarmImage) -> frozenset[str]:
        """Names of the nodes that have the content; by its tag where no digest is known."""
        found: set[str] = set()
        for other in self._same(warmimage):
            found |= self.warm[line_of(other).version]
        return frozenset(found.union(*(self.listed[name] for name in _names(warmimage) if name in self.listed)))

    def size(self, warmimage: WarmImage) -> int:
        """Compressed bytes; 0 if neither a registry nor a kubelet has said it."""
        for known in (warmimage, *self._same(warmimage)):
            if known.resolved is not None and known.resolved.size_bytes:
                return known.resolved.size_bytes
        return next((self._sizes[name] for name in _names(warmimage) if name in self._sizes), 0)

    def _same(self, warmimage: WarmImage) -> Iterator[WarmImage]:
        image, digest = warmimage.image.as_run, _digest(warmimage)
        for other in self._warmimages[image.canonical.name]:
            its = _digest(other)
            same_tag = other.image.as_run.tag == image.tag and not (digest and its and digest != its)
            if (digest and digest == its) or (image.tag and same_tag):
                yield other


def _digest(warmimage: WarmImage) -> str:
    resolved = warmimage.resolved
    return warmimage.image.digest or (resolved.digest if resolved is not None else "") or warmimage.digest


def _names(warmimage: WarmImage) -> list[str]:
    """The names under which a runtime lists the content."""
    image, digest = warmimage.image.as_run.canonical, _digest(warmimage)
    return [f"{image.name}@{digest}"] if digest else [str(image)]


def _limited(warmimage: WarmImage, tenancy: Tenancy) -> WarmImage:
    return permitted(replace(warmimage, limits=tenancy.of(warmimage.key.namespace)))


def _placed(warmimages: Sequence[WarmImage], facts: Facts) -> Iterator[tuple[WarmImage, list[Node] | None]]:
    """Each with its nodes; `None` if they depend on Pods that could not be read."""
    limited = [_limited(warmimage, facts.tenancy) for warmimage in warmimages]
    readable = {
        warmimage.key
        for warmimage in limited
        if all(query in facts.running for queries in pod_queries(warmimage) for query in queries)
    }
    nodes = [each.node for each in facts.nodes]
    placed = place_each([each for each in limited if each.key in readable], nodes, facts.running)
    found = {warmimage.key: some for warmimage, some in placed}
    for warmimage in warmimages:
        yield warmimage, found.get(warmimage.key)


def _selected(template: Template, namespace: str, facts: Facts) -> frozenset[str]:
    nodes = replace(template.nodes, limit=None, running_pods=None)
    any_image = WarmImage(ObjectKey(namespace, ""), _ANY_IMAGE, template=replace(template, nodes=nodes, once=None))
    # An image that the namespace may not have says nothing about the nodes.
    limits = replace(facts.tenancy.of(namespace), images=("**",))
    ((_, found),) = place_each(
        [permitted(replace(any_image, limits=limits))], [each.node for each in facts.nodes], facts.running
    )
    return frozenset(node.name for node in found)


def _image_preview(
    warmimage: WarmImage, change: Change, nodes: Sequence[Node] | None, holders: _Holders
) -> ImagePreview:
    names = frozenset(node.name for node in nodes or ())
    lacking = frozenset(node.name for node in nodes or () if lacks_platform(warmimage.resolved, node))
    return ImagePreview(
        warmimage.key,
        str(warmimage.image),
        change,
        names,
        holders.of(warmimage) & names,
        lacking,
        holders.size(warmimage),
        pods_unknown=nodes is None,
    )


def _with_plans(previews: Iterable[ImagePreview], wanted: Wanted, facts: Facts) -> Iterator[ImagePreview]:
    """With how nodes would get the images, the largest ones."""
    planned = sorted(previews, key=lambda image: -image.size_bytes * len(image.pulling))
    images = {warmimage.key: warmimage for warmimage in (*wanted.after, *wanted.later)}
    by_name = {each.node.name: each for each in facts.nodes}
    peers = [each.report.peer for each in facts.nodes if each.report is not None and each.report.peer is not None]
    left = _PLANNED_MAX
    done = dict[ObjectKey, ImagePreview]()
    for image in planned:
        if not left or not image.pulling or image.change == "removed":
            done[image.warmimage] = image
            continue
        left -= 1
        canonical = images[image.warmimage].image.canonical
        rates = measured_rates(peers, canonical.host, facts.rates)
        candidates = [
            _candidate(by_name[name], name in image.present, facts.now) for name in sorted(image.nodes - image.lacking)
        ]
        found = plan(canonical.name, candidates, image.size_bytes, rates, images[image.warmimage].template.source)
        seconds = found.seconds or (direct_seconds(candidates, image.size_bytes, rates) if image.size_bytes else 0.0)
        readers = found.seeds if found.outcome == "Peers" else len(image.pulling)
        done[image.warmimage] = replace(
            image, outcome=found.outcome, readers=readers, seconds=seconds if image.size_bytes else 0.0
        )
    for image in sorted(done.values(), key=lambda image: (_ORDER.index(image.change), image.image)):
        yield image


def _candidate(facts: NodeFacts, warm: bool, now: datetime) -> Candidate:
    report = facts.report
    peer = report.peer if report is not None and report.reachable(now) else None
    return Candidate(facts.node, peer, warm)
