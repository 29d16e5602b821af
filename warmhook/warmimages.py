"""Define the values of WarmPolicy and WarmImage: an image, its nodes, and how to pull it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias

from warmhook.early_blobs import EarlyBlobs
from warmhook.images import Reference
from warmhook.labels import Selector
from warmhook.limits import Limits
from warmhook.manifests import Resolved
from warmhook.node_affinity import Affinity, Constraints
from warmhook.requests import Requests
from warmhook.resolutions import Question, Resolution
from warmhook.taints import Toleration

OWNERS_MAX: Final = 8
"""Owners that a WarmImage stores: enough for images that services share, and bounded for images that all have."""
PullPolicy: TypeAlias = Literal["IfNotPresent", "Always"]
OriginSource: TypeAlias = Literal["Admission", "Existing", "Rollout"]
"""How Pods were seen: when they were created, in a list of the Pods that exist, or by the workload that makes them."""
OnRemoval: TypeAlias = Literal["Retain", "Delete"]
SourceMode: TypeAlias = Literal["auto", "registry", "peers"]
"""Where nodes get an image: from each other where that is faster, always from the registry, or from each other."""

LONGEST_TIMEOUT_SECONDS: Final = 7200
"""The limit for one pull; 20 GB at 3 MB/s take less."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Namespace and name of an object; says nothing about its identity (uid)."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


PolicyKey: TypeAlias = ObjectKey


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many of the matching nodes."""

    value: int
    percent: bool = False
    """`value` is per cent of the matching nodes, rounded up; otherwise a number of nodes."""

    def of(self, nodes: int) -> int:
        """How many of `nodes` matching nodes may be taken."""
        wanted = -(-nodes * self.value // 100) if self.percent else self.value
        return min(nodes, wanted)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The selected nodes; all given conditions must hold, so names and a selector narrow each other."""

    selector: Selector | None = None
    """`None`: every Linux node that is not a virtual kubelet; with `names`, any node."""
    names: tuple[str, ...] = ()
    limit: Limit | None = None
    """`None`: all of them."""
    affinity: Affinity | None = None
    """The required node affinity of Pods; `None`: any node."""
    tolerations: tuple[Toleration, ...] | None = None
    """Given: only nodes whose taints are tolerated and that are not cordoned. `None`: taints are ignored."""
    running_pods: Selector | None = None
    """Only nodes that run such Pods of the WarmImage's namespace; `None`: any node."""


@dataclass(frozen=True, slots=True)
class Pull:
    """How nodes pull; an agent groups lines of one image and takes the greatest of each."""

    policy: PullPolicy = "IfNotPresent"
    """`Always`: every version of the line is pulled once, even if the image is present."""
    timeout_seconds: int = 600
    """The limit for one attempt; at most `LONGEST_TIMEOUT_SECONDS`."""
    backoff_limit: int = 3
    """Failed attempts that are repeated soon; after one more the line is `failed`, and tried less often."""
    priority: int = 0
    """A higher value is pulled first."""
    pinned: bool = False
    """Whether the image is kept from the kubelet's image garbage collection."""
    secrets: tuple[str, ...] = ()
    """Names of Secrets with credentials, in the namespace of the WarmImage; its spec has `sharePrivate` then."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which images may be refreshed."""

    schedule: str
    """Five fields as in cron, or a name such as `@daily`: when it opens."""
    duration_seconds: int
    time_zone: str = "UTC"
    """A name of the IANA database."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """When tags are resolved again."""

    interval_seconds: int | None = None
    """`None`: once in each window; never without windows."""
    windows: tuple[Window, ...] = ()
    """Empty: at any time."""


@dataclass(frozen=True, slots=True)
class Once:
    """The lifetime of an image that is warmed once and not kept."""

    deadline_seconds: int | None = None
    """After so many seconds the nodes that are not warm are given up; `None`: never."""
    ttl_seconds_after_finished: int | None = None
    """The WarmImage is deleted so many seconds after it completed; `None`: never."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where nodes get an image from."""

    mode: SourceMode = "auto"
    seeds: Limit = Limit(10, percent=True)
    """At most so many nodes read the registry, and the others get the image from them; at least one does."""
    seed_nodes: Selector | None = None
    """Only these nodes read the registry; `None`: any node."""


@dataclass(frozen=True, slots=True)
class Template:
    """The spec of a WarmImage without the image."""

    nodes: Nodes = field(default_factory=Nodes)
    pull: Pull = field(default_factory=Pull)
    expire_after_seconds: int | None = None
    """Seconds since the push; `None`: never."""
    refresh: Refresh = field(default_factory=Refresh)
    once: Once | None = None
    """`None`: the image is kept on its nodes as long as it is wanted."""
    on_removal: OnRemoval = "Retain"
    """Whether nodes delete the image that they pulled when it is no longer wanted."""
    suspend: bool = False
    """Whether nodes pull and delete nothing for now."""
    source: Source = field(default_factory=Source)
    requests: Requests = field(default_factory=Requests)
    """What the annotations of the policy ask for; not part of a spec."""


@dataclass(frozen=True, slots=True)
class PodOwner:
    """One owner whose Pods need a WarmImage."""

    owner: str
    """Kind and name: `Deployment/web`."""
    labels: tuple[tuple[str, str], ...] = ()
    """The labels of its last Pod, sorted: compared with the selector of a policy when it changes."""
    containers: tuple[str, ...] = ()
    """Names of the containers with the image, sorted; empty if the owner has no versions, like a single Pod."""
    at: datetime | None = None
    """The last creation of a Pod that was written; of a rollout when the workload began to use the image."""
    selector: Selector | None = None
    """The Pods of a workload, on whose nodes a rollout needs the image."""


@dataclass(frozen=True, slots=True)
class PodOrigin:
    """The Pods of a WarmImage that exists because of them."""

    owners: tuple[PodOwner, ...]
    """The most recent first; the label `warmhook.dev/owner` names it."""
    constraints: Constraints = field(default_factory=Constraints)
    more: bool = False
    """Whether there were more owners than are stored."""
    source: OriginSource = "Admission"
    """`Existing`: wanted on all nodes of the policy. `Rollout`: on those that run Pods of the owners."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What the status of a WarmImage says that was done."""

    started: bool = False
    """Whether its nodes were counted, or it was refreshed."""
    refreshed_at: datetime | None = None
    """The last refresh."""
    refreshed_by_nodes: bool = False
    """Whether the nodes pulled the tag again then, because the registry could not be asked."""
    refresh_handled: str = ""
    """The last value of its own annotation that was handled."""
    policy_refresh_handled: str = ""
    """The same of the annotation of its policy."""
    complete_since: datetime | None = None
    """When it completed in its present generation; `None` if it did not, or its lifetime is not `Once`."""


@dataclass(frozen=True, slots=True)
class WarmImage:
    """One image wanted on some nodes: the durable result of a push, a policy, a Pod or a person."""

    key: ObjectKey
    image: Reference
    """By tag, or by digest if there is no tag or a person has given both, as a kubelet would run it."""
    digest: str = ""
    """The digest of the image, or of the tag according to the event; empty if unknown."""
    pushed_at: datetime | None = None
    template: Template = field(default_factory=Template)
    policy_label: str = ""
    """The label `warmhook.dev/policy`; empty if a person created the WarmImage."""
    policy_name: str = ""
    """The name of the policy, for people; the label decides. Empty like the label."""
    event_id: str = ""
    """The id of the event that last changed it."""
    pod_origin: PodOrigin | None = None
    """`None` if it exists because of a push, a policy or a person."""
    policy_gone_since: datetime | None = None
    """When its policy was first found missing; `None` if it has its policy, or needs none."""
    requests: Requests = field(default_factory=Requests)
    """What its own annotations ask for."""
    lifecycle: Lifecycle = field(default_factory=Lifecycle, compare=False)
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    created_at: datetime | None = None
    limits: Limits | None = field(default=None, compare=False)
    """What its namespace may ask for; `None`: anything. Not part of the object."""
    resolution: Resolution | None = field(default=None, compare=False)
    """The last answer of the registry, as the status has it; it may be about an earlier push."""

    early_blobs: EarlyBlobs | None = field(default=None, compare=False)
    """Of a push of its repository that has not ended; they may have expired."""

    @property
    def question(self) -> Question:
        """What to ask the registry. A new Pod asks nothing new."""
        image = str(replace(self.image, digest=self.digest))
        return Question(image, self.pushed_at if self.pod_origin is None else None)

    @property
    def resolved(self) -> Resolved | None:
        """What the registry says about this image and this push; `None` if that is unknown."""
        known = self.resolution
        return known.resolved if known is not None and known.question == self.question else None

    @property
    def purged(self) -> bool:
        """Whether nodes should not have the image for now."""
        return self.requests.purge or self.template.requests.purge

    @property
    def complete(self) -> bool:
        """Whether it was warmed once, or given up, and no node should have its line any more.

        A purge needs the lines again, and makes it begin anew afterwards.
        """
        ended = self.template.once is not None and self.lifecycle.complete_since is not None
        return ended and not self.purged

    def expires_at(self) -> float | None:
        """Seconds since the epoch at which it expires; `None`: never.

        Counted from the push or the last admission, or from the creation of the object if no push is known.
        """
        since = self.pushed_at or self.created_at
        if self.template.expire_after_seconds is None or since is None:
            return None
        return since.timestamp() + self.template.expire_after_seconds


# The longest part of a repository's last element that the name of a WarmImage repeats, so that a person can read it.
_READABLE = 40


def warmimage_name(policy: PolicyKey, image: Reference) -> str:
    """The name of the WarmImage that `policy` has for `image`: a repeated event finds the same object."""
    readable = image.repository.rpartition("/")[2].lower()[:_READABLE].strip("._-")
    # Repository elements may hold '_', object names may not.
    unique = _hex(f"{policy}\n{image.without_digest()}", 10)
    return f"{readable.replace('_', '-')}-{unique}"


def pod_warmimage_name(policy: PolicyKey, image: Reference, constraints: Constraints) -> str:
    """The name of the WarmImage that `policy` has for Pods with these constraints.

    Owners whose Pods can run on the same nodes share it. So a hundred owners with one sidecar put one line on a node,
    and a job that runs every minute creates one object. Owners with other constraints have another one.
    """
    readable = warmimage_name(policy, image).rpartition("-")[0]
    unique = _hex(f"{policy}\n{image}\n{constraints.canonical()}", 10)
    return f"{readable}-{unique}"


def origin_warmimage_name(policy: PolicyKey, image: Reference, origin: PodOrigin) -> str:
    """The name of the WarmImage that `policy` has for `image` because of Pods or workloads."""
    if origin.source == "Admission":
        return pod_warmimage_name(policy, image, origin.constraints)
    readable = warmimage_name(policy, image).rpartition("-")[0]
    unique = _hex(f"{policy}\n{image}\n{origin.source}", 10)
    return f"{readable}-{unique}"


def owner_label(namespace: str, owner: str) -> str:
    """The value of `warmhook.dev/owner`: the last owner that needed the image; `owner` is kind and name."""
    return _hex(f"{namespace}/{owner}", 16)


def policy_label(policy: PolicyKey) -> str:
    """The value of `warmhook.dev/policy`: selects all WarmImages of a policy."""
    return _hex(str(policy), 16)


def repository_label(image: Reference) -> str:
    """The value of `warmhook.dev/repository`: selects all WarmImages of a repository."""
    return _hex(image.canonical.name, 16)


def _hex(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:digits]
