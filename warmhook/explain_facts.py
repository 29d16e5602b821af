"""Hold what was read of a cluster to explain why one image is, or is not, on one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias, TypeVar

from warmhook.checks import command
from warmhook.delivery_records import DeliveryRecord
from warmhook.doctor_leader import LeaseFacts
from warmhook.durations import format_duration
from warmhook.images import Reference
from warmhook.node_report import Report, clean_message
from warmhook.placement import Node, RunningNodes
from warmhook.policies import Policy
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage


@dataclass(frozen=True, slots=True)
class Unread:
    """Something that could not be read."""

    problem: str
    """Why, in one line."""
    mend: str = ""
    """The command that grants the right; empty if no right is missing."""


_Value = TypeVar("_Value")
Read: TypeAlias = _Value | Unread


@dataclass(frozen=True, slots=True)
class WebhookState:
    """The MutatingWebhookConfiguration by which the API server calls Warmhook for new Pods."""

    has_authority: bool
    """Whether each of its webhooks has a `caBundle`."""
    expires_at: datetime | None = None
    """When the last certificate in it ends; `None` if that cannot be read."""
    by_cert_manager: bool = False


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A WarmPolicy, usable or not."""

    key: PolicyKey
    policy: Policy | None
    problem: str = ""
    """Its unreadable parts."""
    refused: str = ""
    """The message of its condition `Degraded` if a write was refused."""
    observed: str = ""
    """The message of its condition `Observed` if Pods or workloads could not be read."""


@dataclass(frozen=True, slots=True)
class ImageState:
    """A WarmImage that can be used."""

    warmimage: WarmImage
    not_allowed: str = ""
    """The message of its condition `Allowed` if it asks for more than its namespace may have."""
    without_node: bool = False
    """Whether the condition `Ready` says `BeyondLimits`: its namespace may not have the image at all."""
    unplaced: str = ""
    """The message of its condition `Ready` if the Pods that decide about its nodes could not be read."""
    failure: tuple[str, str] | None = None
    """Reason and message of the node among the failures of its status, which names some nodes."""
    progress: str = ""
    """Of its status, such as `3/5`: how many of the nodes that should hold it are warm."""
    all_warm: bool = False
    """Whether all of them are, by its condition `Ready`."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """The Node."""

    node: Node
    not_ready: str = ""
    """Reason and message of its condition `Ready` if that is not `True`."""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """The ConfigMap that the handlers write for the node."""

    lines: Mapping[str, str] = field(default_factory=dict)
    """Line key to the encoded line."""
    refused: frozenset[str] = frozenset()
    """Keys of the lines that found no room."""


@dataclass(frozen=True, slots=True)
class ReportState:
    """The ConfigMap that the agent writes."""

    report: Report
    details: Mapping[str, str] = field(default_factory=dict)
    """Line key to the encoded detail."""


@dataclass(frozen=True, slots=True)
class AgentPod:
    """The Pod of the agent on the node."""

    name: str
    phase: str
    ready: bool
    problem: str = ""
    """Why its container does not run: `CrashLoopBackOff`; empty if it runs."""
    message: str = ""
    """What the kubelet says about that, or why it was not scheduled."""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was read."""

    image: Reference
    node_name: str
    now: datetime
    namespace: str = ""
    """Where policies and WarmImages were looked for; empty: everywhere."""
    system_namespace: str = "warmhook-system"
    agents_namespace: str = "warmhook-agents"
    warmimage_name: str = ""
    """Of the WarmImages of the image only those of this name are explained; empty: all."""
    missing_kinds: tuple[str, ...] = ()
    """CRDs that are not installed."""
    lease: Read[LeaseFacts | None] = None
    denied: Read[Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """By ServiceAccount (`web`, `handlers`, `agent`) what it may not do: `list nodes`."""
    webhook: Read[WebhookState | None] = None
    deliveries: Read[tuple[DeliveryRecord, ...]] = ()
    """The newest first."""
    policies: Read[tuple[PolicyState, ...]] = ()
    images: Read[tuple[ImageState, ...]] = ()
    """The usable WarmImages of the repository, whatever their tags."""
    unusable: tuple[tuple[ObjectKey, str], ...] = ()
    """WarmImages for this image of which a field cannot be used, and the problem."""
    node: Read[NodeState | None] = None
    similar_nodes: tuple[str, ...] = ()
    """If there is no such Node: the names that are most like it."""
    others: Read[tuple[Node, ...]] = ()
    """All Nodes, read only if a limit chooses among them."""
    running: Read[RunningNodes] = field(default_factory=dict)
    """The nodes of the Pods that placements depend on."""
    desired: Read[DesiredState | None] = None
    report: Read[ReportState | None] = None
    agent_pods: Read[tuple[AgentPod, ...]] = ()


def is_image(asked: Reference, warmimage: WarmImage) -> bool:
    """Whether the WarmImage is for the image that was asked about, whoever wrote its name."""
    digests = {warmimage.image.digest, warmimage.digest}
    if warmimage.resolution is not None and warmimage.resolved is not None:
        digests.add(warmimage.resolved.digest)
    return _same(asked, warmimage.image, digests)


def _same(asked: Reference, named: Reference, digests: set[str]) -> bool:
    asked, named = asked.canonical, named.canonical
    if asked.name != named.name:
        return False
    return asked.digest in digests if asked.digest else asked.tag == named.tag


def annotate(kind: str, key: ObjectKey, change: str) -> str:
    """The command that sets or removes an annotation."""
    return command("kubectl", "-n", key.namespace, "annotate", "--overwrite", kind, key.name, change)


def patch(kind: str, key: ObjectKey, how: str, change: str) -> str:
    """The command that patches an object; `how` is `merge` or `json`."""
    return command("kubectl", "-n", key.namespace, "patch", kind, key.name, "--type", how, "-p", change)


def push_again(facts: Facts, *options: str) -> str:
    """The command that announces the image by hand, with the source of that kind if one is known."""
    records = () if isinstance(facts.deliveries, Unread) else facts.deliveries
    source = next((record.source for record in records if record.kind == "webhook"), "<source of kind webhook>")
    return command("warmhook", "push", str(facts.image), "--to", "<URL of web>", "--source", source, *options)


def clean(text: str) -> str:
    """Foreign text without control characters, at most 200 characters."""
    return clean_message(text)


def at(moment: datetime, now: datetime) -> str:
    """The moment and how long ago it was: `2026-03-01T12:00:00Z (5m ago)`."""
    seconds = int((now - moment).total_seconds())
    shown = format_time(moment.replace(microsecond=0))
    return f"{shown} ({format_duration(abs(seconds))} {'ago' if seconds >= 0 else 'in the future'})"
