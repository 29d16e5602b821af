"""Hold what the page and the command show of a cluster: images by groups of nodes, one image, one node, deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeAlias, get_args

from warmhook.checks import Check
from warmhook.delivery_records import DeliveryRecord
from warmhook.warmimages import ObjectKey

CellState: TypeAlias = Literal["warm", "pulling", "waiting", "failed", "unreachable"]
"""Of one image on one node."""
STATES: Final[tuple[CellState, ...]] = get_args(CellState)
"""In the order in which a picture shows them, and a `Tally` has them."""
WORST_FIRST: Final[tuple[CellState, ...]] = ("failed", "unreachable", "pulling", "waiting", "warm")
"""In the order in which lists of nodes and images show them."""
Dimension: TypeAlias = Literal["pool", "zone", "node"]
"""What nodes are grouped by; `node`: each by itself."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Of how many nodes each state is."""

    warm: int = 0
    pulling: int = 0
    waiting: int = 0
    failed: int = 0
    unreachable: int = 0

    @property
    def desired(self) -> int:
        """All nodes that should hold the image."""
        return self.warm + self.pulling + self.waiting + self.failed + self.unreachable


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes that a picture shows as one column."""

    name: str
    """Of the pool, the zone or the node; empty: the nodes without one."""
    nodes: int
    silent: int = 0
    """Of these, nodes whose agent is unreachable."""
    within: str = ""
    """By node: the pool of the node. Nodes of one pool are side by side."""


@dataclass(frozen=True, slots=True)
class CellKind:
    """How an image can be on a node."""

    state: CellState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One WarmImage across all groups."""

    warmimage: ObjectKey
    image: str
    policy: str
    """The name of its policy; empty if a user made it."""
    total: Tally
    by_group: tuple[Tally, ...] = ()
    """By pool or zone: one for each group of the overview, in the same order. By node it is empty."""
    cells: bytes = b""
    """By node: one byte for each group of the overview. 0: the node should not hold the image; n: `kinds[n - 1]`."""
    kinds: tuple[CellKind, ...] = ()
    """At most 255."""
    pushed_at: datetime | None = None
    ready: bool = False
    reason: str = ""
    """Of its condition `Ready`."""


@dataclass(frozen=True, slots=True)
class Failing:
    """One reason for which nodes do not have an image."""

    warmimage: ObjectKey
    image: str
    reason: str
    """A reason of `status.failures`, or `Unreachable`, or the reason of a condition."""
    nodes: tuple[str, ...]
    """Some of the nodes, sorted; empty if the reader may not know them or there are none."""
    count: int
    """How many nodes; 0: the image as a whole."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """The first page."""

    at: datetime
    dimension: Dimension
    groups: tuple[NodeGroup, ...]
    """For a reader who may not see nodes one without a name, which stands for all nodes."""
    rows: tuple[ImageRow, ...]
    """What is failing first, then what is under way, then the newest."""
    failing: tuple[Failing, ...]
    checks: tuple[Check, ...] = ()
    """What is wrong with the installation: agents silent, no leader, ..."""
    nodes: int = 0
    """All nodes of the cluster; 0 for a reader who may not see nodes."""
    left_out: int = 0
    """Images beyond the limit of a page."""
    groups_left_out: int = 0
    """Groups beyond the limit of a page. The totals of rows include them."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of a push."""

    name: str
    """`pushed`, `received`, `accepted`, `resolved`, `lines`, `first node`, `half of the nodes`, `last node`, ..."""
    at: datetime | None
    """`None`: it has not happened, or nobody noted when."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NodeCell:
    """One image on one node."""

    node: str
    group: str
    state: CellState
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ImagePage:
    """One image: its push as a timeline, and its nodes."""

    row: ImageRow
    groups: tuple[NodeGroup, ...]
    timeline: tuple[Moment, ...]
    cells: tuple[NodeCell, ...]
    """Failed nodes first, then by group and name; empty if the reader may not see nodes."""
    failing: tuple[Failing, ...]
    conditions: tuple[Check, ...] = ()
    digest: str = ""
    deliveries: tuple[DeliveryRecord, ...] = ()
    """Those that named the image, newest first."""


@dataclass(frozen=True, slots=True)
class NodePage:
    """One node and its lines."""

    name: str
    group: str
    seen: datetime | None
    """The last sign of life of its agent."""
    reachable: bool
    images: Mapping[ObjectKey, tuple[str, NodeCell]] = field(default_factory=dict)
    """The image of each WarmImage that the reader may see, and its state."""
    truncated: bool = False
    """Whether lines of these images had no room."""
