"""What is wanted: an image on some nodes, and how to get it there. The values behind WarmPolicy and WarmImage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeAlias

from warmhook.images import Reference
from warmhook.labels import Selector
from warmhook.node_affinity import Affinity, Constraints
from warmhook.taints import Toleration

__all__ = [
    "LONGEST_TIMEOUT_SECONDS",
    "Limit",
    "Nodes",
    "ObjectKey",
    "PodOrigin",
    "PodOwner",
    "PolicyKey",
    "Pull",
    "PullPolicy",
    "Template",
    "WarmImage",
    "owner_label",
    "pod_warmimage_name",
    "policy_label",
    "repository_label",
    "warmimage_name",
]

PullPolicy: TypeAlias = Literal["IfNotPresent", "Always"]

LONGEST_TIMEOUT_SECONDS: Final = 7200
"""Of one pull; 20 GB at 3 MB/s take less."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Namespace and name: what an object is called, whoever's turn it is to exist under it."""

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
    """Which nodes; what is given narrows the choice, so names and a selector must both hold."""

    selector: Selector | None = None
    """`None`: every Linux node that is no virtual kubelet; with `names`, any node."""
    names: tuple[str, ...] = ()
    limit: Limit | None = None
    """`None`: all of them."""
    affinity: Affinity | None = None
    """As Pods ask for it; `None`: any node."""
    tolerations: tuple[Toleration, ...] | None = None
    """Given: only nodes whose taints are tolerated and that are not cordoned. `None`: taints are not looked at."""


@dataclass(frozen=True, slots=True)
class Pull:
    """How nodes pull; an agent groups lines of one image and takes the greatest of each."""

    policy: PullPolicy = "IfNotPresent"
    """`Always`: every version of the line is pulled once, even where the image is present."""
    timeout_seconds: int = 600
    """For one attempt; at most `LONGEST_TIMEOUT_SECONDS`."""
    backoff_limit: int = 3
    """Failed attempts that are repeated soon; after one more the line is `failed` and tried again and again."""
    priority: int = 0
    """Higher is pulled first."""


@dataclass(frozen=True, slots=True)
class Template:
    """All of a WarmImage's spec but the image itself."""

    nodes: Nodes = field(default_factory=Nodes)
    pull: Pull = field(default_factory=Pull)
    expire_after_seconds: int | None = None
    """Since the push; `None`: never."""


@dataclass(frozen=True, slots=True)
class PodOwner:
    """One owner whose Pods need a WarmImage."""

    owner: str
    """16 hex digits that stand for it."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of its last Pod, sorted: a policy's selector is held against them whenever it changes."""
    containers: tuple[str, ...] = ()
    """Names of those that run the image, sorted; none where the owner keeps no versions, as a Pod by itself."""
    at: datetime | None = None
    """When its last Pod was created, as far as that was written."""


@dataclass(frozen=True, slots=True)
class PodOrigin:
    """Which Pods a WarmImage is for, where their creation led to it."""

    owners: tuple[PodOwner, ...]
    """The last first; the label `warmhook.dev/owner` names it."""
    constraints: Constraints = field(default_factory=Constraints)
    more: bool = False
    """There were more owners than are remembered."""


@dataclass(frozen=True, slots=True)
class WarmImage:
    """One image wanted on some nodes: the durable intent that one push or one policy line led to."""

    key: ObjectKey
    image: Reference
    """By tag, or by digest where there is no tag or a person has given both: that is what a kubelet would run."""
    digest: str = ""
    """The image's own, or what the tag points at, as the event said; empty where nobody said."""
    pushed_at: datetime | None = None
    template: Template = field(default_factory=Template)
    policy_label: str = ""
    """The label `warmhook.dev/policy`; empty where a person made the WarmImage by hand."""
    event_id: str = ""
    """Of the event that last changed it."""
    pod_origin: PodOrigin | None = None
    """`None` where no Pod led to it, but a push, a policy or a person."""
    policy_gone_since: datetime | None = None
    """When its policy was first found missing; `None` where it has its policy, or none by design."""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    created_at: datetime | None = None

    def expires_at(self) -> float | None:
        """Seconds since the epoch after which nobody wants it; `None`: never.

        Counted from the push or the last admission, and from the creation of the object where no push is known.
        """
        since = self.pushed_at or self.created_at
        if self.template.expire_after_seconds is None or since is None:
            return None
        return since.timestamp() + self.template.expire_after_seconds


# The longest part of a repository's last element that a WarmImage's name repeats, so that a person can read it.
_READABLE = 40


def warmimage_name(policy: PolicyKey, image: Reference) -> str:
    """The name of the WarmImage that `policy` has for `image`: an event that is repeated finds the same object."""
    readable = image.repository.rpartition("/")[2].lower()[:_READABLE].strip("._-")
    # Repository elements may hold '_', object names may not.
    unique = _hex(f"{policy}\n{image.without_digest()}", 10)
    return f"{readable.replace('_', '-')}-{unique}"


def pod_warmimage_name(policy: PolicyKey, image: Reference, constraints: Constraints) -> str:
    """The name of the WarmImage that `policy` has for Pods with these constraints.

    Owners whose Pods can land on the same nodes share it, so a hundred of them with one sidecar put one line on a node
    and a job that runs every minute makes one object; owners with other constraints have another one.
    """
    readable = warmimage_name(policy, image).rpartition("-")[0]
    unique = _hex(f"{policy}\n{image}\n{constraints.canonical()}", 10)
    return f"{readable}-{unique}"


def owner_label(namespace: str, owner: str) -> str:
    """The value of `warmhook.dev/owner`: what asked for an image last; `owner` is kind and name."""
    return _hex(f"{namespace}/{owner}", 16)


def policy_label(policy: PolicyKey) -> str:
    """The value of `warmhook.dev/policy`: finds all WarmImages of a policy."""
    return _hex(str(policy), 16)


def repository_label(image: Reference) -> str:
    """The value of `warmhook.dev/repository`: finds all WarmImages of a repository."""
    return _hex(image.canonical.name, 16)


def _hex(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:digits]
