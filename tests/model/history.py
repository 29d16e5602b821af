"""Record the history for the model: policies, pushes and their deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from warmhook.ports import Object

__all__ = [
    "EPOCH",
    "HOST",
    "LIMITED",
    "LIMITS",
    "Attempt",
    "History",
    "Image",
    "Limits",
    "Push",
    "Reign",
    "Rule",
    "Spec",
    "Where",
]

EPOCH = datetime.fromisoformat("2026-05-01T12:00:00+00:00")
HOST = "harbor.example.com"


@dataclass(frozen=True, slots=True, order=True)
class Image:
    """What a push or a policy names."""

    repository: str
    """With its host."""
    tag: str
    """Or, for an untagged push, its digest."""

    def __str__(self) -> str:
        return f"{self.repository}{'@' if ':' in self.tag else ':'}{self.tag}"


@dataclass(frozen=True, slots=True)
class Where:
    """Which nodes a policy chooses."""

    pool: str = ""
    """The label `pool`; empty: any Linux node."""
    names: tuple[str, ...] = ()
    limit: int | str | None = None
    running: str = ""
    """Only nodes that run a Pod with this label `app` in the policy's namespace; empty: any."""

    def fields(self) -> Object:
        """As the API writes it."""
        selector = {"selector": {"matchLabels": {"pool": self.pool}}} if self.pool else {}
        limit = {} if self.limit is None else {"limit": self.limit}
        running = {"runningPods": {"matchLabels": {"app": self.running}}} if self.running else {}
        return {**selector, "names": list(self.names), **limit, **running}


@dataclass(frozen=True, slots=True)
class Rule:
    """Which pushes a policy takes, and, apart from globs and ranges, which of the tests' images that means."""

    glob: str
    repositories: frozenset[str]
    fields: tuple[tuple[str, object], ...]
    """Beside the repository, as the API writes it."""
    tags: frozenset[str]
    untagged: bool = False
    keep: int = 1

    def takes(self, image: Image) -> bool:
        return image.repository in self.repositories and (self.untagged if ":" in image.tag else image.tag in self.tags)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a person wrote into a policy."""

    named: tuple[Image, ...] = ()
    rules: tuple[Rule, ...] = ()
    where: Where = Where()
    pull: str = "IfNotPresent"
    priority: int = 0
    expire_seconds: int | None = None
    invalid: bool = False
    """It has one more rule, about all tags of all repositories, whose range nobody can read."""
    on_removal: str = "Retain"
    once: bool = False
    pinned: bool = False
    suspend: bool = False
    purge: bool = False
    """By annotation, as the next."""
    refresh: str = ""

    def wants(self, image: Image) -> bool:
        return image in self.named or any(rule.takes(image) for rule in self.rules)

    def spares(self, image: Image) -> bool:
        """Whether the rule that nobody can read may be what once led to an image, so that it is not taken away."""
        return self.invalid and ":" not in image.tag

    def keep(self, repository: str) -> int:
        return max((rule.keep for rule in self.rules if repository in rule.repositories), default=1)

    def fields(self) -> Object:
        """As the API writes it."""
        push = [
            {"repository": rule.glob, "untagged": rule.untagged, "keep": rule.keep, **dict(rule.fields)}
            for rule in self.rules
        ]
        lifetime: Object = {"type": "Once"} if self.once else {}
        if self.expire_seconds is not None:
            lifetime["expireAfterSeconds"] = self.expire_seconds
        return {
            "images": [str(image) for image in self.named],
            "push": push + [{"repository": "**", "semver": ">= latest"}] * self.invalid,
            "template": {
                "nodes": self.where.fields(),
                "pull": {"policy": self.pull, "priority": self.priority, "pinned": self.pinned},
                "lifetime": lifetime,
                "onRemoval": self.on_removal,
            },
            "suspend": self.suspend,
        }

    def annotations(self) -> dict[str, str]:
        """By which a person asks for things once, or for a while."""
        purge = {"warmhook.dev/purge": "true"} if self.purge else {}
        return purge | ({"warmhook.dev/refresh": self.refresh} if self.refresh else {})


@dataclass(frozen=True, slots=True)
class Limits:
    """What the configuration allows a namespace."""

    repositories: str = ""
    """A prefix; empty: all."""
    pool: str = ""
    """Placements never leave these nodes; empty: any."""
    priority: int = 1000
    allow: tuple[str, ...] = ("Delete", "Pinned", "SharePrivate")

    def fields(self) -> Object:
        """As the configuration writes it."""
        nodes = {"nodes": {"matchLabels": {"pool": self.pool}}} if self.pool else {}
        room = {"linesPerNode": 256, "bytesPerNode": 98304}
        images = [f"{self.repositories}**"]
        return {"images": images, "highestPriority": self.priority, "allow": list(self.allow), **nodes, **room}


LIMITED: Final = "default"
LIMITS: Final[Mapping[str, Limits]] = {LIMITED: Limits(f"{HOST}/shop/", "web", 5, ()), "**": Limits()}
"""By glob over namespaces."""


@dataclass(slots=True)
class Attempt:
    """A sender's request."""

    began: datetime
    ended: datetime | None = None
    status: int = 0
    """0: no answer came."""
    skew: timedelta = timedelta(0)
    """By how much the clock of the `web` that got it is ahead."""

    @property
    def received(self) -> datetime:
        """By that clock."""
        return self.began + self.skew


@dataclass(slots=True)
class Push:
    """A registry took an image and tells of it."""

    number: int
    source: str
    image: Image
    digest: str
    """Empty: the sender does not say."""
    time: datetime | None
    """The sender's; `None`: it does not say."""
    attempts: list[Attempt] = field(default_factory=list)

    def moment(self, attempt: Attempt) -> datetime:
        """When the image counts as pushed, should this attempt be the one that is taken."""
        return attempt.received if self.time is None else min(self.time, attempt.received)

    @property
    def accepted(self) -> bool:
        return any(200 <= attempt.status < 300 for attempt in self.attempts)


@dataclass(frozen=True, slots=True)
class Reign:
    """What a policy was for a while."""

    begins: datetime
    ends: datetime
    spec: Spec | None
    """`None`: there was no such policy."""


@dataclass(slots=True)
class History:
    """All of it."""

    pushes: list[Push] = field(default_factory=list)
    policies: dict[str, list[tuple[datetime, Spec | None]]] = field(default_factory=dict)
    """By `namespace/name`, oldest first."""
    registry: dict[str, list[tuple[datetime, str]]] = field(default_factory=dict)
    """What a tag pointed at since when, oldest first."""
    others: dict[str, str] = field(default_factory=dict)
    """Repositories that WarmImages without a policy of the history had images of, with their `onRemoval`."""

    def reigns(self, policy: str, end: datetime) -> list[Reign]:
        """The policy's versions, oldest first, from before everything to `end`."""
        changes = [(EPOCH - timedelta(days=1), None), *self.policies.get(policy, [])]
        ends = [since for since, _ in changes[1:]] + [end]
        return [Reign(since, until, spec) for (since, spec), until in zip(changes, ends, strict=True)]
