"""Define the CRD of WarmImage, and read and write its objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from adapters.kubernetes.crd import Column, custom_resource_definition, list_map, pattern, rules, validated
from adapters.kubernetes.distribution import DistributionStatus
from adapters.kubernetes.patterns import CONDITION_REASON, CONDITION_TYPE, IMAGE_RULE
from adapters.kubernetes.pod_origin import PodOriginSpec, origin_object, read_origin
from adapters.kubernetes.resolution import Moment, ResolvedStatus, read_resolution
from adapters.kubernetes.spec import InvalidObject, Spec, invalid_object
from adapters.kubernetes.template import SUSPEND, TEMPLATE_RULE, DigestText, ImageText, TemplateSpec
from adapters.kubernetes.template_object import template_object
from warmhook.api import (
    API_VERSION,
    EARLY_ANNOTATION,
    EVENT_ANNOTATION,
    GONE_ANNOTATION,
    OWNER_LABEL,
    POLICY_LABEL,
    REPOSITORY_LABEL,
)
from warmhook.early_blobs import EarlyBlobs, encode_early_blobs, read_early_blobs
from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.ports import Object
from warmhook.pull_failures import FailureReason
from warmhook.requests import REFRESH_MAX, policy_annotations, read_policy_requests, read_requests
from warmhook.status import find_condition
from warmhook.timestamps import format_time, parse_time
from warmhook.warmimages import (
    Lifecycle,
    ObjectKey,
    WarmImage,
    owner_label,
    repository_label,
)

Text = Annotated[str, StringConstraints(max_length=1024)]
Count = Annotated[int, Field(ge=0)]
Handled = Annotated[str, StringConstraints(max_length=REFRESH_MAX)]
Generation = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]


class WarmImageSpec(TemplateSpec):
    """One image wanted on some nodes."""

    model_config = validated(
        TEMPLATE_RULE,
        (
            "!has(self.digest) || !self.image.contains('@') || self.image.endsWith('@' + self.digest)",
            "digest differs from the digest in image: leave one of them out",
        ),
    )

    image: ImageText = Field(
        description="What a Pod would name; latest where there is neither tag nor digest.",
        json_schema_extra=rules(
            IMAGE_RULE, ("self == oldSelf", "cannot be changed: create another WarmImage, and delete this one")
        ),
    )
    digest: DigestText | None = Field(
        default=None,
        description="What to run, whatever the tag points at; with a policy, what a push said the tag points at.",
    )
    pushed_at: Moment | None = Field(
        default=None, description="When the registry took the image, or the last Pod that needs it was created."
    )
    policy_name: Annotated[str, StringConstraints(max_length=253)] | None = Field(
        default=None, description="The WarmPolicy that the image belongs to; written by Warmhook."
    )
    pods: PodOriginSpec | None = Field(
        default=None, description="The Pods that the image is for, if it is for Pods; written by Warmhook."
    )
    suspend: bool = Field(default=False, description=SUSPEND)


class Condition(Spec):
    """A condition as in all Kubernetes APIs (metav1.Condition)."""

    type: Annotated[str, StringConstraints(max_length=316), pattern(CONDITION_TYPE)] = Field(
        description="Its name, such as Ready."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: Generation | None = Field(default=None, description="The generation that it is about.")
    last_transition_time: Moment = Field(description="When the status changed last.")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=1024), pattern(CONDITION_REASON)] = Field(
        description="Why, in one word for programs."
    )
    message: Annotated[str, StringConstraints(max_length=32768)] = Field(description="Why, for people; may be empty.")


CONDITIONS: Final[JsonDict] = list_map("type")
"""For the schema of a list of conditions: each writer may have its own."""


class FailureStatus(Spec):
    """Why one node does not have the image."""

    node: Annotated[str, StringConstraints(max_length=253)] = Field(description="The name of the node.")
    reason: FailureReason = Field(description="Why, in one word for programs.")
    message: Text = Field(default="", description="Why, for people.")


class WarmImageStatus(Spec):
    """How far the nodes have come; desired = warm + pulling + waiting + failed + unreachable."""

    observed_generation: Generation | None = Field(default=None, description="The generation that was counted.")
    digest: DigestText | None = Field(
        default=None, description="The digest of the image; absent if the tag brought another one on some node."
    )
    progress: Annotated[str, StringConstraints(max_length=32)] | None = Field(
        default=None, description="Warm and desired nodes, such as 3/12, for people."
    )
    desired: Count | None = Field(default=None, description="All nodes that should hold the image.")
    warm: Count | None = Field(default=None, description="Nodes that hold the image.")
    pulling: Count | None = Field(default=None, description="Nodes that pull the image now.")
    waiting: Count | None = Field(default=None, description="Nodes that pull the image later.")
    failed: Count | None = Field(default=None, description="Nodes that could not pull the image, and go on trying.")
    unreachable: Count | None = Field(
        default=None, description="Nodes that should hold the image and whose agent has been silent for 10 minutes."
    )
    failures: list[FailureStatus] | None = Field(
        default=None, max_length=10, description="The first nodes that failed or are unreachable, by name."
    )
    started_at: Moment | None = Field(default=None, description="When nodes were first counted for this generation.")
    first_warm_at: Moment | None = Field(default=None, description="When the first node was warm in this generation.")
    half_warm_at: Moment | None = Field(
        default=None, description="When half of the reachable nodes were warm for the first time in this generation."
    )
    completed_at: Moment | None = Field(
        default=None, description="When all reachable nodes were warm for the first time in this generation."
    )
    resolved: ResolvedStatus | None = Field(
        default=None, description="What the registry says about the image; only for registries of the configuration."
    )
    distribution: DistributionStatus | None = Field(
        default=None, description="How nodes got the image; absent if all pulled it from the registry without a plan."
    )
    refreshed_at: Moment | None = Field(default=None, description="When the tag was last resolved again.")
    refreshed_by: Literal["Registry", "Nodes"] | None = Field(
        default=None,
        description="Who resolved it: the registry answered once for all nodes, or each node pulled the tag again.",
    )
    refresh_handled: Handled | None = Field(
        default=None, description="The last value of the annotation warmhook.dev/refresh that was handled."
    )
    policy_refresh_handled: Handled | None = Field(
        default=None, description="The same of the annotation of the policy."
    )
    conditions: list[Condition] | None = Field(
        default=None,
        max_length=16,
        json_schema_extra=CONDITIONS,
        description="Ready: all reachable nodes are warm, and there is one. Degraded: nodes failed or are unreachable. "
        "Complete, with lifetime type Once: all nodes were warm, or the deadline is over. Distributed, where nodes get "
        "the image from each other: few of them had to read the registry after all.",
    )


_STATUS_FIELDS: Final = frozenset(map(to_camel, WarmImageStatus.model_fields))


class _WarmImage(Spec):
    """One image wanted on some nodes: made from events and policies, or by hand."""

    spec: WarmImageSpec = Field(description="What is wanted.")
    status: WarmImageStatus | None = Field(default=None, description="What there is; written by Warmhook.")


def warmimage_crd() -> Object:
    """The CustomResourceDefinition."""
    return custom_resource_definition(
        "WarmImage",
        "warmimages",
        "wi",
        _WarmImage,
        [
            Column("Policy", "string", ".spec.policyName"),
            Column("Image", "string", ".spec.image"),
            Column("Warm", "string", ".status.progress"),
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
            Column("Failed", "integer", ".status.failed", priority=1),
            Column("Unreachable", "integer", ".status.unreachable", priority=1),
            Column("Digest", "string", ".status.digest", priority=1),
            Column("Age", "date", ".metadata.creationTimestamp"),
        ],
        selectable=(".spec.image", ".spec.policyName"),
    )


def read_warmimage(obj: Object) -> WarmImage:
    """The value of a WarmImage object. Raises `InvalidObject` for errors that the CRD schema does not exclude.

    Raises `NewerObject` for fields and values that this version does not know.
    """
    metadata: dict[str, Any] = obj["metadata"]
    annotations: Mapping[str, Any] = metadata.get("annotations") or {}
    label = (metadata.get("labels") or {}).get(POLICY_LABEL, "")
    try:
        spec = WarmImageSpec.model_validate(obj.get("spec") or {})
        image = _image(spec, made_by_policy=bool(label))
        pushed_at = parse_time(spec.pushed_at) if spec.pushed_at else None
    except ValidationError as error:
        raise invalid_object(error, "spec") from error
    except NotAReference as error:
        raise InvalidObject(f"spec.image: {error}") from error
    except ValueError as error:
        raise InvalidObject(f"spec.pushedAt: {error}") from error
    try:
        pod_origin = read_origin(spec.pods)
    except ValueError as error:  # NotASelector, TooManyTerms
        raise InvalidObject(f"spec.pods: {error}") from error
    created = metadata.get("creationTimestamp")
    return WarmImage(
        key=ObjectKey(metadata["namespace"], metadata["name"]),
        image=image,
        digest=spec.digest or image.digest,
        pushed_at=pushed_at,
        template=replace(spec.value(), suspend=spec.suspend, requests=read_policy_requests(annotations)),
        policy_label=label,
        policy_name=spec.policy_name or "",
        event_id=annotations.get(EVENT_ANNOTATION, ""),
        pod_origin=pod_origin,
        policy_gone_since=_gone_since(metadata),
        requests=read_requests(annotations),
        lifecycle=_lifecycle(obj),
        early_blobs=read_early_blobs(annotations.get(EARLY_ANNOTATION)),
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        resource_version=metadata.get("resourceVersion", ""),
        created_at=parse_time(created) if created else None,
        resolution=read_resolution(obj.get("status") or {}),
    )


def unknown_status(status: Mapping[str, Any]) -> Object:
    """The fields of a status that a newer version of Warmhook wrote."""
    return {name: value for name, value in status.items() if name not in _STATUS_FIELDS}


def warmimage_object(warmimage: WarmImage) -> Object:
    """The object to create."""
    return {"apiVersion": API_VERSION, "kind": "WarmImage", **_without_nulls(_content(warmimage))}


def push_patch(warmimage: WarmImage, resource_version: str) -> Object:
    """The merge patch that notes this push in an object, if it is still at `resource_version`, and nothing else."""
    content = warmimage_patch(warmimage, resource_version)
    annotations = {EVENT_ANNOTATION: warmimage.event_id}
    return {
        "metadata": {"resourceVersion": resource_version, "annotations": annotations},
        "spec": {name: content["spec"][name] for name in ("digest", "pushedAt")},
    }


def warmimage_patch(warmimage: WarmImage, resource_version: str) -> Object:
    """The merge patch that turns an existing object into this WarmImage, if it is still at `resource_version`.

    It must have the same image, which cannot be changed.
    """
    content = _content(warmimage)
    del content["spec"]["image"]
    content["metadata"]["resourceVersion"] = resource_version
    return content


def early_patch(early: EarlyBlobs) -> Object:
    """The merge patch that notes the blobs of a push that has not ended."""
    return {"metadata": {"annotations": {EARLY_ANNOTATION: encode_early_blobs(early)}}}


def _content(warmimage: WarmImage) -> Object:
    """Absent fields are `None`: a merge patch keeps fields that it does not name."""
    origin, gone_since = warmimage.pod_origin, warmimage.policy_gone_since
    metadata = {
        "name": warmimage.key.name,
        "namespace": warmimage.key.namespace,
        "labels": {
            REPOSITORY_LABEL: repository_label(warmimage.image),
            POLICY_LABEL: warmimage.policy_label or None,
            OWNER_LABEL: origin and owner_label(warmimage.key.namespace, origin.owners[0].owner),
        },
        "annotations": {
            EVENT_ANNOTATION: warmimage.event_id or None,
            GONE_ANNOTATION: gone_since and format_time(gone_since),
            **policy_annotations(warmimage.template.requests),
        },
    }
    spec = {
        "image": str(warmimage.image),
        **template_object(warmimage.template),
        "digest": warmimage.digest or None,
        "pushedAt": warmimage.pushed_at and format_time(warmimage.pushed_at),
        "policyName": warmimage.policy_name or None,
        "pods": origin and origin_object(origin),
        "suspend": warmimage.template.suspend or None,
    }
    return {"metadata": metadata, "spec": spec}


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(part) for key, part in value.items() if part is not None}


def _image(spec: WarmImageSpec, *, made_by_policy: bool) -> Reference:
    """The image that nodes should pull. Raises `NotAReference`.

    A digest that a person wrote, after the tag or in its own field, is the image that Pods run. A digest from a push is
    the expected digest of the tag.
    """
    image = parse_reference(spec.image, default_tag="latest")
    if spec.digest and image.digest and spec.digest != image.digest:
        raise NotAReference(f"{spec.image!r} has another digest than spec.digest")
    if spec.digest and not made_by_policy:
        image = replace(image, digest=spec.digest)
    return image.as_run


def _lifecycle(obj: Object) -> Lifecycle:
    """What the status says; only handlers write it, and unreadable times are ignored."""
    status: Mapping[str, Any] = obj.get("status") or {}
    complete = find_condition(status, "Complete")
    current = complete.get("observedGeneration") == obj["metadata"].get("generation")
    ended = current and complete.get("status") == "True"
    return Lifecycle(
        started="observedGeneration" in status or "refreshedAt" in status,
        refreshed_at=_moment(status.get("refreshedAt")),
        refreshed_by_nodes=status.get("refreshedBy") == "Nodes",
        refresh_handled=str(status.get("refreshHandled", "")),
        policy_refresh_handled=str(status.get("policyRefreshHandled", "")),
        complete_since=_moment(complete.get("lastTransitionTime")) if ended else None,
    )


def _moment(text: object) -> datetime | None:
    try:
        return parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _gone_since(metadata: Mapping[str, Any]) -> datetime | None:
    """`None` also for an invalid mark: it is set again."""
    try:
        return parse_time((metadata.get("annotations") or {})[GONE_ANNOTATION])
    except (KeyError, ValueError):
        return None
