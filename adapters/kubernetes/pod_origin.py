"""Define, read and write the part of a WarmImage that says because of which Pods or workloads it exists."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from adapters.kubernetes.crd import SET, list_map
from adapters.kubernetes.resolution import Moment
from adapters.kubernetes.spec import LabelSelector, LabelValue, Spec, read_selector
from adapters.kubernetes.template import NodeAffinity, TolerationSpec
from warmhook.admission_review import IMAGES_MAX, LABELS_MAX
from warmhook.labels import requirement_object
from warmhook.node_affinity import Constraints, affinity_object, parse_affinity
from warmhook.taints import TOLERATIONS_MAX, parse_tolerations, toleration_object
from warmhook.timestamps import format_time, parse_time
from warmhook.warmimages import OWNERS_MAX, OriginSource, PodOrigin, PodOwner


class PodOwnerSpec(Spec):
    """One owner whose Pods need the image."""

    kind: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(
        description="Its kind, such as Deployment; Pod for Pods without an owner."
    )
    name: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(description="Its name.")
    labels: dict[Annotated[str, StringConstraints(max_length=317)], LabelValue] = Field(
        default={}, max_length=LABELS_MAX, description="The labels of its last Pod."
    )
    containers: list[Annotated[str, StringConstraints(max_length=80)]] = Field(
        default=[],
        max_length=IMAGES_MAX,
        json_schema_extra=SET,
        description="Its containers with the image, or volume/ and the name of an image volume.",
    )
    admitted_at: Moment | None = Field(
        default=None, description="When its last Pod was created or seen, about; of a rollout when it began."
    )
    selector: LabelSelector | None = Field(
        default=None, description="Of a rollout: its Pods, on whose nodes the image is wanted."
    )


class PodOriginSpec(Spec):
    """The Pods that need the image; written by Warmhook."""

    source: OriginSource | None = Field(
        default=None,
        description="Admission, or absent: Pods that were created. Existing: Pods that exist, on all nodes."
        " Rollout: workloads, on the nodes of their Pods.",
    )
    owners: list[PodOwnerSpec] = Field(
        min_length=1,
        max_length=OWNERS_MAX,
        json_schema_extra=list_map("kind", "name"),
        description="The owners of the Pods, the last one first.",
    )
    more_owners: bool = Field(default=False, description="There are more owners than are listed.")
    affinity: NodeAffinity | None = Field(
        default=None, description="What node selector and required node affinity of the Pods allow; absent: any node."
    )
    tolerations: list[TolerationSpec] = Field(
        default=[], max_length=TOLERATIONS_MAX, description="The tolerations of the Pods."
    )


def origin_object(origin: PodOrigin) -> dict[str, Any]:
    """The field `pods`, absent parts as `None`."""
    constraints = origin.constraints
    return {
        "source": None if origin.source == "Admission" else origin.source,
        "owners": list(map(_owner_object, origin.owners)),
        "moreOwners": origin.more or None,
        "affinity": None if constraints.affinity is None else affinity_object(constraints.affinity),
        "tolerations": list(map(toleration_object, constraints.tolerations)) or None,
    }


def _owner_object(owner: PodOwner) -> dict[str, Any]:
    kind, _, name = owner.owner.partition("/")
    fields: dict[str, Any] = {"kind": kind, "name": name}
    if owner.labels:
        fields["labels"] = dict(owner.labels)
    if owner.containers:
        fields["containers"] = list(owner.containers)
    if owner.selector is not None:
        fields["selector"] = {"matchExpressions": list(map(requirement_object, owner.selector.requirements))}
    return fields | ({"admittedAt": format_time(owner.at)} if owner.at else {})


def _read_owner(spec: PodOwnerSpec) -> PodOwner:
    return PodOwner(
        owner=f"{spec.kind}/{spec.name}",
        labels=tuple(sorted(spec.labels.items())),
        containers=tuple(sorted(spec.containers)),
        at=parse_time(spec.admitted_at) if spec.admitted_at else None,
        selector=read_selector(spec.selector, "pods.owners.selector"),
    )


def read_origin(spec: PodOriginSpec | None) -> PodOrigin | None:
    """The Pods that the WarmImage is for. Raises `ValueError`."""
    if spec is None:
        return None
    affinity = None if spec.affinity is None else parse_affinity(spec.affinity.model_dump(by_alias=True))
    tolerations = parse_tolerations([toleration.model_dump() for toleration in spec.tolerations or ()])
    owners, constraints = tuple(map(_read_owner, spec.owners)), Constraints(affinity, tolerations)
    return PodOrigin(owners, constraints, spec.more_owners, spec.source or "Admission")
