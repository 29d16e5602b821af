"""Read and write the part of a spec that WarmPolicy and WarmImage share: nodes, pull options, lifetime."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from adapters.kubernetes.crd import ATOMIC, SET, Rule, pattern, rules, validated
from adapters.kubernetes.patterns import (
    DECIMAL,
    DIGEST,
    DNS_SUBDOMAIN,
    IMAGE_RULE,
    INTEGER,
    OPTIONAL_LABEL_KEY,
    SCHEDULE_RULE,
    TIME_ZONE,
)
from adapters.kubernetes.spec import (
    VALUES_MESSAGE,
    VALUES_RULE,
    InvalidObject,
    LabelKey,
    LabelSelector,
    LabelValue,
    LimitText,
    Spec,
    read_limit,
    read_selector,
)
from adapters.time_zones import find_zone
from warmhook.cron import parse_schedule
from warmhook.node_affinity import PARTS_MAX, TERMS_MAX, VALUES_MAX, Affinity, parse_affinity
from warmhook.taints import TOLERATIONS_MAX, Toleration, TolerationOperator, parse_tolerations
from warmhook.warmimages import (
    LONGEST_TIMEOUT_SECONDS,
    Nodes,
    Once,
    OnRemoval,
    Pull,
    PullPolicy,
    Refresh,
    Source,
    SourceMode,
    Template,
    Window,
)

DigestText = Annotated[str, StringConstraints(max_length=135, pattern=DIGEST)]
# Longer than any reference: a host of 259, a repository of 255, a tag of 128 and a digest of 135 characters.
ImageText = Annotated[str, StringConstraints(min_length=1, max_length=800), Field(json_schema_extra=rules(IMAGE_RULE))]
SecretName = Annotated[str, StringConstraints(min_length=1, max_length=253), pattern(DNS_SUBDOMAIN)]
NodeName = Annotated[str, StringConstraints(min_length=1, max_length=253), pattern(DNS_SUBDOMAIN)]

SUSPEND: Final = "Nodes pull and delete nothing for now; pushes are still recorded."
"""The description of `spec.suspend` of both kinds."""
_TEN_YEARS_SECONDS: Final = 10 * 366 * 86400
_REFRESH_LEAST_SECONDS: Final = 300
_WINDOW_LEAST_SECONDS: Final = 900  # shorter ones could fall between two syncs
_WINDOW_LONGEST_SECONDS: Final = 7 * 86400


class NodeRequirement(Spec):
    """One requirement on a node's labels; Gt and Lt compare integers."""

    model_config = validated(
        (VALUES_RULE, VALUES_MESSAGE),
        (
            f"!(self.operator in ['Gt', 'Lt']) || (size(self.values) == 1 && self.values[0].matches(r'{INTEGER}'))",
            "Gt and Lt take exactly one integer",
        ),
    )

    key: LabelKey = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        description="How the label is compared; NotIn and DoesNotExist also match nodes without it."
    )
    values: list[LabelValue] = Field(
        default=[], max_length=VALUES_MAX, description="Values for In and NotIn; one integer for Gt and Lt."
    )


class FieldRequirement(Spec):
    """One requirement on a node's name."""

    key: Literal["metadata.name"] = Field(description="The field: the name of the node.")
    operator: Literal["In", "NotIn"] = Field(description="How the name is compared.")
    values: list[NodeName] = Field(min_length=1, max_length=VALUES_MAX, description="Names of nodes.")


class NodeSelectorTerm(Spec):
    """Requirements that must all hold; without any, no node matches."""

    match_expressions: list[NodeRequirement] = Field(
        default=[], max_length=TERMS_MAX, description="Requirements on the node's labels."
    )
    match_fields: list[FieldRequirement] = Field(
        default=[], max_length=TERMS_MAX, description="Requirements on the node's name."
    )


_PARTS: Final = "map(each, 1 + size(each.values)).sum()"
_PARTS_RULE: Final = (
    f"self.nodeSelectorTerms.map(term, term.matchExpressions.{_PARTS} + term.matchFields.{_PARTS}).sum() <= {PARTS_MAX}"
)


class NodeAffinity(Spec):
    """Which nodes, as a Pod's required node affinity says it; one of the terms must match."""

    model_config = validated((_PARTS_RULE, f"at most {PARTS_MAX} requirements and values together"), **ATOMIC)

    node_selector_terms: list[NodeSelectorTerm] = Field(
        default=[], max_length=TERMS_MAX, description="One of these must match; without any, no node does."
    )


class TolerationSpec(Spec):
    """Which taints are tolerated; Gt and Lt compare integers."""

    model_config = validated(
        (
            f"!(self.operator in ['Gt', 'Lt']) || self.value.matches(r'{DECIMAL}')",
            "Gt and Lt take an integer",
        ),
        ("self.operator == 'Exists' || self.key != ''", "without a key the operator must be Exists"),
        ("self.operator != 'Exists' || self.value == ''", "Exists takes no value"),
    )

    key: Annotated[str, StringConstraints(max_length=317), pattern(OPTIONAL_LABEL_KEY)] = Field(
        default="", description="The key of the taints; empty: any."
    )
    operator: TolerationOperator = Field(default="Equal", description="How the value is compared.")
    value: LabelValue = Field(default="", description="The value of the taints; for Gt and Lt an integer.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="", description="The effect of the taints; empty: any."
    )


class NodesSpec(Spec):
    """Which nodes; what is given narrows the choice."""

    selector: LabelSelector | None = Field(
        default=None, description="Absent: every Linux node that is no virtual kubelet; with names, any node."
    )
    names: list[NodeName] = Field(default=[], max_length=1024, json_schema_extra=SET, description="Only these nodes.")
    limit: LimitText | None = Field(
        default=None,
        description="At most so many of the matching nodes: a number or a percentage, rounded up; 0 is none.",
    )
    affinity: NodeAffinity | None = Field(
        default=None, description="Only nodes that a Pod with this affinity can be on."
    )
    tolerations: list[TolerationSpec] | None = Field(
        default=None,
        max_length=TOLERATIONS_MAX,
        description="Only nodes that are not cordoned and whose taints are tolerated; absent: taints do not matter.",
    )
    running_pods: LabelSelector | None = Field(
        default=None,
        description="Only nodes that run such Pods of this namespace; changes are seen at the next sync.",
    )


class WindowSpec(Spec):
    """A time in which images are refreshed."""

    schedule: Annotated[str, StringConstraints(min_length=1, max_length=256)] = Field(
        json_schema_extra=rules(SCHEDULE_RULE),
        description="When it opens: five fields as in cron, or a name such as @daily.",
    )
    duration_seconds: int = Field(
        default=3600,
        ge=_WINDOW_LEAST_SECONDS,
        le=_WINDOW_LONGEST_SECONDS,
        description="How long it stays open, in seconds; images are refreshed in its first half.",
    )
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64), pattern(TIME_ZONE)] = Field(
        default="UTC", description="Of the schedule: a name of the IANA database, such as Europe/Paris."
    )


class PullSpec(Spec):
    """How nodes pull."""

    model_config = validated(
        (
            "!has(self.secrets) || size(self.secrets) == 0 || (has(self.sharePrivate) && self.sharePrivate)",
            "secrets need sharePrivate: true, because every Pod on the nodes may use the images that they open",
        ),
    )

    policy: PullPolicy = Field(
        default="IfNotPresent", description="Always: every new version is pulled once, even where the image is present."
    )
    timeout_seconds: int = Field(
        default=600,
        ge=1,
        le=LONGEST_TIMEOUT_SECONDS,
        description="For one attempt, in seconds without progress; since its start where the runtime shows none.",
    )
    backoff_limit: int = Field(
        default=3, ge=0, le=100, description="Retries before a node counts as failed; it goes on trying more rarely."
    )
    priority: int = Field(default=0, ge=-1000, le=1000, description="Higher is pulled first.")
    pinned: bool = Field(
        default=False,
        description="Keep the image from the kubelet's garbage collection, where the runtime is a containerd that can.",
    )
    secrets: list[SecretName] = Field(
        default=[],
        max_length=8,
        json_schema_extra=SET,
        description="Secrets of this namespace with credentials for registries.",
    )
    share_private: bool = Field(
        default=False,
        description="Every Pod on the nodes may use the images that the secrets open, as far as the kubelet allows it.",
    )
    refresh_interval_seconds: int | None = Field(
        default=None,
        ge=_REFRESH_LEAST_SECONDS,
        le=_TEN_YEARS_SECONDS,
        description="Resolve the tag again after so many seconds, 10 % more or less; absent: never without windows.",
    )
    refresh_windows: list[WindowSpec] = Field(
        default=[], max_length=8, description="Refresh only in these; without an interval, once in each."
    )


class SourceSpec(Spec):
    """Where nodes get the image from: the registry, or each other."""

    mode: SourceMode | None = Field(
        default=None,
        description="registry: every node pulls from the registry. peers: few nodes do, and the others get the image "
        "from them. auto: peers where that is faster; the same if absent.",
    )
    seeds: LimitText | None = Field(
        default=None,
        description="At most so many nodes read the registry: a number or a percentage, rounded up; at least one does. "
        "Absent: 10%.",
    )
    seed_nodes: LabelSelector | None = Field(
        default=None, description="Only nodes with these labels read the registry; absent: any node."
    )


_IS_ONCE: Final = "has(self.type) && self.type == 'Once'"
_LIFETIME_IS_ONCE: Final = _IS_ONCE.replace("self", "self.lifetime")


class LifetimeSpec(Spec):
    """How long the image is wanted."""

    model_config = validated(
        (
            f"!has(self.deadlineSeconds) && !has(self.ttlSecondsAfterFinished) || {_IS_ONCE}",
            "deadlineSeconds and ttlSecondsAfterFinished need type: Once",
        ),
    )

    type: Literal["Keep", "Once"] = Field(
        default="Keep", description="Keep: healed as long as it is wanted. Once: not healed after all nodes were warm."
    )
    expire_after_seconds: int | None = Field(
        default=None,
        ge=1,
        le=_TEN_YEARS_SECONDS,
        description="Since the push or the last Pod, in seconds; absent: never, and 7 days for images of Pods.",
    )
    deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=_TEN_YEARS_SECONDS,
        description="With Once: nodes that are not warm after so many seconds are given up; absent: never.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=_TEN_YEARS_SECONDS,
        description="With Once: a WarmImage without a policy is deleted so many seconds after it completed; "
        "absent: never.",
    )


TEMPLATE_RULE: Final[Rule] = (
    f"!has(self.onRemoval) || self.onRemoval != 'Delete' || !has(self.lifetime) || !({_LIFETIME_IS_ONCE})",
    "an image with lifetime type Once stays on its nodes: onRemoval must be Retain",
)


class TemplateSpec(Spec):
    """All of a WarmImage's spec but the image."""

    model_config = validated(TEMPLATE_RULE)

    nodes: NodesSpec = Field(default=NodesSpec(), description="Which nodes should hold the image.")
    pull: PullSpec = Field(default=PullSpec(), description="How nodes pull.")
    lifetime: LifetimeSpec = Field(default=LifetimeSpec(), description="How long the image is wanted.")
    on_removal: OnRemoval = Field(
        default="Retain",
        description="Delete: nodes delete an image that they pulled for this, that nothing uses and nobody else wants.",
    )
    source: SourceSpec | None = Field(default=None, description="Where nodes get the image from.")

    def value(self) -> Template:
        """The value of the spec. Raises `InvalidObject`."""
        return Template(
            nodes=Nodes(
                read_selector(self.nodes.selector, "nodes.selector"),
                tuple(self.nodes.names),
                read_limit(self.nodes.limit, "nodes.limit"),
                self._affinity(),
                self._tolerations(),
                read_selector(self.nodes.running_pods, "nodes.runningPods"),
            ),
            pull=self._pull(),
            expire_after_seconds=self.lifetime.expire_after_seconds,
            refresh=self._refresh(),
            once=self._once(),
            on_removal=self.on_removal,
            source=self._source(),
        )

    def _source(self) -> Source:
        given, default = self.source, Source()
        if given is None:
            return default
        seeds = read_limit(given.seeds, "source.seeds") or default.seeds
        return Source(given.mode or default.mode, seeds, read_selector(given.seed_nodes, "source.seedNodes"))

    def _pull(self) -> Pull:
        pull = self.pull
        if pull.secrets and not pull.share_private:
            raise InvalidObject("pull.secrets: need sharePrivate: true, as every Pod on the nodes may use the images")
        return Pull(
            pull.policy, pull.timeout_seconds, pull.backoff_limit, pull.priority, pull.pinned, tuple(pull.secrets)
        )

    def _refresh(self) -> Refresh:
        windows = []
        for at, each in enumerate(self.pull.refresh_windows):
            try:
                parse_schedule(each.schedule)
                find_zone(each.time_zone)
            except ValueError as error:  # NotASchedule, NotAZone
                raise InvalidObject(f"pull.refreshWindows[{at}]: {error}") from error
            windows.append(Window(each.schedule, each.duration_seconds, each.time_zone))
        return Refresh(self.pull.refresh_interval_seconds, tuple(windows))

    def _once(self) -> Once | None:
        lifetime = self.lifetime
        if lifetime.type == "Keep":
            return None
        return Once(lifetime.deadline_seconds, lifetime.ttl_seconds_after_finished)

    def _affinity(self) -> Affinity | None:
        if self.nodes.affinity is None:
            return None
        try:
            return parse_affinity(self.nodes.affinity.model_dump(by_alias=True))
        except ValueError as error:  # NotASelector, TooManyTerms
            raise InvalidObject(f"nodes.affinity.{error}") from error

    def _tolerations(self) -> tuple[Toleration, ...] | None:
        given = self.nodes.tolerations
        return None if given is None else parse_tolerations([toleration.model_dump() for toleration in given])
