"""Define the CRD of WarmImage, and read and write its objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError
from pydantic.config import JsonDict

from adapters.kubernetes.crd import Column, custom_resource_definition
from adapters.kubernetes.template import (
    SUSPEND,
    DigestText,
    ImageText,
    InvalidObject,
    Spec,
    TemplateSpec,
    template_object,
)
from adapters.validation_errors import first_problem
from warmhook.api import (
    API_VERSION,
    EVENT_ANNOTATION,
    GONE_ANNOTATION,
    ORIGIN_ANNOTATION,
    OWNER_LABEL,
    POLICY_LABEL,
    REPOSITORY_LABEL,
)
from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.node_affinity import Constraints, affinity_object, parse_affinity
from warmhook.ports import Object
from warmhook.pull_failures import FailureReason
from warmhook.taints import parse_tolerations, toleration_object
from warmhook.timestamps import format_time, parse_time
from warmhook.warmimages import ObjectKey, PodOrigin, PodOwner, WarmImage, repository_label

Moment = Annotated[str, StringConstraints(max_length=40), Field(json_schema_extra={"format": "date-time"})]
Text = Annotated[str, StringConstraints(max_length=1024)]
Count = Annotated[int, Field(ge=0)]


class WarmImageSpec(TemplateSpec):
    """One image wanted on some nodes."""

    image: ImageText = Field(description="What a Pod would name; latest where there is neither tag nor digest.")
    digest: DigestText | None = Field(
        default=None,
        description="What to run, whatever the tag points at; with a policy, what a push said the tag points at.",
    )
    pushed_at: Moment | None = Field(
        default=None, description="When the registry took the image, or the last Pod that needs it was created."
    )
    suspend: bool = Field(default=False, description=SUSPEND)


class Condition(Spec):
    """A condition as in all Kubernetes APIs."""

    type: Annotated[str, StringConstraints(max_length=64)]
    status: Literal["True", "False", "Unknown"]
    observed_generation: int | None = None
    reason: Annotated[str, StringConstraints(max_length=64)] = ""
    message: Text = ""
    last_transition_time: Moment | None = None


CONDITIONS: Final[JsonDict] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
"""For the schema of a list of conditions: each writer may have its own."""


class FailureStatus(Spec):
    """Why one node does not have the image."""

    node: Annotated[str, StringConstraints(max_length=253)]
    reason: FailureReason
    message: Text = ""


class WarmImageStatus(Spec):
    """How far the nodes have come; desired = warm + pulling + waiting + failed + unreachable."""

    observed_generation: int | None = None
    digest: DigestText | None = None
    desired: Count | None = Field(default=None, description="All nodes that should hold the image.")
    warm: Count | None = None
    pulling: Count | None = None
    waiting: Count | None = None
    failed: Count | None = None
    unreachable: Count | None = Field(
        default=None, description="Nodes that should hold the image and whose agent has been silent for 10 minutes."
    )
    failures: list[FailureStatus] | None = Field(default=None, max_length=10)
    started_at: Moment | None = None
    completed_at: Moment | None = None
    conditions: list[Condition] | None = Field(default=None, max_length=16, json_schema_extra=CONDITIONS)


class _WarmImage(Spec):
    """One image wanted on some nodes: made from events and policies, or by hand."""

    spec: WarmImageSpec
    status: WarmImageStatus | None = None


def warmimage_crd() -> Object:
    """The CustomResourceDefinition."""
    return custom_resource_definition(
        "WarmImage",
        "warmimages",
        "wi",
        _WarmImage,
        [
            Column("Image", "string", ".spec.image"),
            Column("Desired", "integer", ".status.desired"),
            Column("Warm", "integer", ".status.warm"),
            Column("Failed", "integer", ".status.failed"),
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Unreachable", "integer", ".status.unreachable", priority=1),
            Column("Digest", "string", ".spec.digest", priority=1),
            Column("Age", "date", ".metadata.creationTimestamp"),
        ],
    )


def read_warmimage(obj: Object) -> WarmImage:
    """The value of a WarmImage object. Raises `InvalidObject` for errors that the CRD schema does not exclude."""
    metadata: dict[str, Any] = obj["metadata"]
    label = (metadata.get("labels") or {}).get(POLICY_LABEL, "")
    try:
        spec = WarmImageSpec.model_validate(obj.get("spec") or {})
        image = _image(spec, made_by_policy=bool(label))
        pushed_at = parse_time(spec.pushed_at) if spec.pushed_at else None
    except ValidationError as error:
        path, message = first_problem(error)
        raise InvalidObject(f"{'.'.join(('spec', *path))}: {message}") from error
    except NotAReference as error:
        raise InvalidObject(f"spec.image: {error}") from error
    except ValueError as error:
        raise InvalidObject(f"spec.pushedAt: {error}") from error
    created = metadata.get("creationTimestamp")
    return WarmImage(
        key=ObjectKey(metadata["namespace"], metadata["name"]),
        image=image,
        digest=spec.digest or image.digest,
        pushed_at=pushed_at,
        template=replace(spec.value(), suspend=spec.suspend),
        policy_label=label,
        event_id=(metadata.get("annotations") or {}).get(EVENT_ANNOTATION, ""),
        pod_origin=_read_origin(metadata),
        policy_gone_since=_gone_since(metadata),
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        resource_version=metadata.get("resourceVersion", ""),
        created_at=parse_time(created) if created else None,
    )


def warmimage_object(warmimage: WarmImage) -> Object:
    """The object to create."""
    return {"apiVersion": API_VERSION, "kind": "WarmImage", **_without_nulls(_content(warmimage))}


def warmimage_patch(warmimage: WarmImage, resource_version: str) -> Object:
    """The merge patch that turns an existing object into this WarmImage, if it is still at `resource_version`."""
    content = _content(warmimage)
    content["metadata"]["resourceVersion"] = resource_version
    return content


def _content(warmimage: WarmImage) -> Object:
    """Absent fields are `None`: a merge patch keeps fields that it does not name."""
    origin, gone_since = warmimage.pod_origin, warmimage.policy_gone_since
    metadata = {
        "name": warmimage.key.name,
        "namespace": warmimage.key.namespace,
        "labels": {
            REPOSITORY_LABEL: repository_label(warmimage.image),
            POLICY_LABEL: warmimage.policy_label or None,
            OWNER_LABEL: origin and origin.owners[0].owner,
        },
        "annotations": {
            EVENT_ANNOTATION: warmimage.event_id or None,
            ORIGIN_ANNOTATION: origin and _origin_text(origin),
            GONE_ANNOTATION: gone_since and format_time(gone_since),
        },
    }
    spec = {
        "image": str(warmimage.image),
        **template_object(warmimage.template),
        "digest": warmimage.digest or None,
        "pushedAt": warmimage.pushed_at and format_time(warmimage.pushed_at),
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


def _gone_since(metadata: Mapping[str, Any]) -> datetime | None:
    """`None` also for an invalid mark: it is set again."""
    try:
        return parse_time((metadata.get("annotations") or {})[GONE_ANNOTATION])
    except (KeyError, ValueError):
        return None


def _origin_text(origin: PodOrigin) -> str:
    fields: dict[str, Any] = {"by": [_owner_object(owner) for owner in origin.owners]}
    if origin.more:
        fields["more"] = True
    if origin.constraints.affinity is not None:
        fields["affinity"] = affinity_object(origin.constraints.affinity)
    if origin.constraints.tolerations:
        fields["tolerations"] = [toleration_object(toleration) for toleration in origin.constraints.tolerations]
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _owner_object(owner: PodOwner) -> dict[str, Any]:
    fields: dict[str, Any] = {"owner": owner.owner, "labels": dict(owner.labels), "containers": list(owner.containers)}
    return fields | ({"at": format_time(owner.at)} if owner.at else {})


def _read_owner(fields: Mapping[str, Any]) -> PodOwner:
    return PodOwner(
        owner=str(fields["owner"]),
        labels=tuple(sorted((str(key), str(value)) for key, value in fields["labels"].items())),
        containers=tuple(sorted(map(str, fields["containers"]))),
        at=parse_time(fields["at"]) if "at" in fields else None,
    )


def _read_origin(metadata: Mapping[str, Any]) -> PodOrigin | None:
    """The Pods that the WarmImage is for. Raises `InvalidObject` if a person has edited the annotation."""
    text = (metadata.get("annotations") or {}).get(ORIGIN_ANNOTATION)
    if text is None:
        return None
    try:
        fields = json.loads(text)
        affinity = parse_affinity(fields["affinity"]) if "affinity" in fields else None
        constraints = Constraints(affinity, parse_tolerations(fields.get("tolerations")))
        origin = PodOrigin(tuple(map(_read_owner, fields["by"])), constraints, fields.get("more") is True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidObject(f"annotation {ORIGIN_ANNOTATION}: {error}") from error
    if not origin.owners:
        raise InvalidObject(f"annotation {ORIGIN_ANNOTATION}: names no owner")
    return origin
