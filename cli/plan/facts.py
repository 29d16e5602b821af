"""Read from the cluster what a preview needs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from adapters.env import BadSetting
from adapters.kubernetes import paths
from adapters.kubernetes.errors import KubernetesError, Refused
from adapters.kubernetes.nodes import FULL_PAGE, disk_bytes, has_disk_pressure, listed_images, read_node
from adapters.registry_settings import EndpointSettings, RegistrySettings
from cli.cluster import Cluster
from cli.program_settings import read_settings
from handlers.namespaces import read_tenancy_of
from handlers.reconcile.objects import DesiredConfigMap, read_warmimages
from warmhook.distribution import Rates
from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.limits import NO_RULES, Tenancy
from warmhook.localhosts import is_local_host
from warmhook.manifests import Resolved
from warmhook.node_report import Report
from warmhook.peer_rates import RATE
from warmhook.placement import Node
from warmhook.ports import Object
from warmhook.preview import Facts, NodeFacts
from warmhook.warmimages import ObjectKey, WarmImage

_HANDLERS: Final = "warmhook-handlers"
_CONFIG: Final = "warmhook-handlers-config"
_ASKED_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Gathered:
    """The facts, and what could not be read."""

    facts: Facts
    tenancy_unknown: str = ""
    """Why the limits of namespaces are not known; empty if they are."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """What else could not be read, and why."""


async def gather(cluster: Cluster, namespaces: Collection[str]) -> Gathered:
    """All but the nodes of Pods, which depend on what is wanted. Nodes must be readable. Raises `KubernetesError`."""
    unread: dict[str, str] = {}
    sizes: dict[str, int] = {}
    nodes, reports, warmimages, installation = await asyncio.gather(
        _nodes(cluster, sizes),
        _reports(cluster, unread),
        _warmimages(cluster, namespaces, unread),
        read_installation(cluster),
    )
    tenancy, rates, tenancy_unknown = installation
    desired, by_node = reports
    lines = {each.node: each for each in desired}
    found = [_node_facts(each, lines, by_node) for each in nodes]
    facts = Facts(cluster.clock.utcnow(), found, warmimages, {}, tenancy, sizes, rates)
    return Gathered(facts, tenancy_unknown, unread)


async def ask_registries(cluster: Cluster, images: Iterable[Reference]) -> tuple[dict[str, int], dict[str, str]]:
    """The sizes of images by their canonical name, without credentials; and why others are not known."""
    # Imported here: an HTTP client that other commands do not need.
    from adapters.oci_registry import OciRegistries

    named = {image.as_run.canonical for image in images}
    # A file may be somebody else's, such as a change that a job of a CI looks at.
    references = sorted(image for image in named if not is_local_host(image.host))
    hosts = {image.host: RegistrySettings(EndpointSettings(image.host)) for image in references}
    registries = OciRegistries(hosts, cluster.clock, lambda _result: None)
    turns = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def ask(image: Reference) -> Any:
        async with turns:
            return await registries.resolve(image)

    try:
        answers = await asyncio.gather(*map(ask, references))
    finally:
        await registries.close()
    sizes = dict[str, int]()
    problems = {str(image): "a host near this machine is not asked" for image in named.difference(references)}
    for image, answer in zip(references, answers, strict=True):
        if isinstance(answer, Resolved) and answer.size_bytes:
            sizes[str(image)] = sizes[f"{image.name}@{answer.digest}"] = answer.size_bytes
        else:
            problems[str(image)] = "it names no size" if isinstance(answer, Resolved) else answer.message
    return sizes, problems


@dataclass(frozen=True, slots=True)
class _Listed:
    """What a Node says, without what its ConfigMaps say: 5,000 Nodes as they are take hundreds of megabytes."""

    node: Node
    names: frozenset[str]
    listed_bytes: int
    disk_bytes: int
    disk_pressure: bool


async def _nodes(cluster: Cluster, sizes: dict[str, int]) -> list[_Listed]:
    """All Nodes; the sizes of the images that their kubelets list are added to `sizes`."""
    now = cluster.clock.utcnow()

    def read(obj: Object) -> Object:
        names: set[str] = set()
        listed = listed_images(obj)
        for written, size in listed:
            for name in filter(None, map(_canonical, written)):
                names.add(name)
                sizes[name] = max(size, sizes.get(name, 0))
        listed_bytes = sum(size for _, size in listed)
        return {
            "node": _Listed(
                read_node(obj, now), frozenset(names), listed_bytes, disk_bytes(obj), has_disk_pressure(obj)
            )
        }

    found = await cluster.kubernetes.list(paths.NODES, page=FULL_PAGE, keep=read)
    return [item["node"] for item in found.items]


def _node_facts(listed: _Listed, desired: Mapping[str, DesiredConfigMap], reports: Mapping[str, Report]) -> NodeFacts:
    have = desired.get(listed.node.name)
    return NodeFacts(
        listed.node,
        frozenset(have.lines).union(have.refused) if have is not None else frozenset[str](),
        have.refused if have is not None else frozenset(),
        reports.get(listed.node.name),
        listed.names,
        listed.listed_bytes,
        listed.disk_bytes,
        listed.disk_pressure,
    )


@lru_cache(maxsize=20_000)
def _canonical(name: str) -> str:
    """The name of an image as a kubelet lists it; empty for one that names nothing, such as `<none>`."""
    try:
        return sys.intern(str(parse_reference(name).as_run.canonical))
    except NotAReference:
        return ""


async def _reports(cluster: Cluster, unread: dict[str, str]) -> tuple[list[DesiredConfigMap], Mapping[str, Report]]:
    try:
        return await cluster.reader.desired_and_reports()
    except Refused as error:
        unread["what is on the nodes"] = str(error)
        return [], {}


async def _warmimages(
    cluster: Cluster, namespaces: Collection[str], unread: dict[str, str]
) -> dict[ObjectKey, WarmImage]:
    try:
        return dict((await cluster.reader.warmimages()).usable)
    except Refused as error:
        if error.status != 403:
            raise
        unread["WarmImages of other namespaces"] = str(error)
    found: dict[ObjectKey, WarmImage] = {}
    for namespace in sorted(namespaces):
        listed = await cluster.kubernetes.list(paths.warmimages_in(namespace))
        found |= (await read_warmimages(listed.items, NO_RULES)).usable
    return found


async def read_installation(cluster: Cluster) -> tuple[Tenancy, Rates, str]:
    """The limits of namespaces and the rates that handlers assume, from the configuration of the handlers."""
    rates = Rates(RATE, RATE)
    try:
        found = await read_settings(cluster, (_HANDLERS,), _CONFIG)
        if found is None:
            where = f"{_HANDLERS} in {cluster.system_namespace}"
            return NO_RULES, rates, f"there is no Deployment {where}"
        environ = found.environ
        rates = Rates(
            _number(environ.get("WARMHOOK_REGISTRY_RATE"), RATE), _number(environ.get("WARMHOOK_NODE_RATE"), RATE)
        )
        return read_tenancy_of(found.config), rates, ""
    except (KubernetesError, BadSetting) as error:
        return NO_RULES, rates, str(error)


def _number(text: str | None, default: float) -> float:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else default
