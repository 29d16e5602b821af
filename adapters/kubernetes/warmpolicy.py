"""WarmPolicy: its CRD, and reading its objects."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from adapters.kubernetes.crd import Column, custom_resource_definition
from adapters.kubernetes.template import ImageText, InvalidObject, LabelSelector, Spec, TemplateSpec
from adapters.kubernetes.warmimage import CONDITIONS, Condition, Count, first_problem
from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.policies import Policy, PushRule
from warmhook.ports import Object
from warmhook.selectors import NotASelector, Selector, parse_selector
from warmhook.semver import NotARange, Range, parse_range
from warmhook.warmimages import ObjectKey

__all__ = ["read_warmpolicy", "warmpolicy_crd"]

Glob = Annotated[str, StringConstraints(min_length=1, max_length=512)]
TagGlob = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class PushSpec(Spec):
    """Which pushes are taken; `exclude` wins over `tags`."""

    repository: Glob = Field(
        description="Glob over host and repository, such as harbor.example.com/shop/**; * stops at a slash."
    )
    tags: list[TagGlob] = Field(default=["*"], max_length=64, description="Globs over tags; one must match.")
    exclude: list[TagGlob] = Field(default=[], max_length=64, description="Globs over tags that are not taken.")
    semver: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        default=None, description="Only tags that are semantic versions in this range, such as >=1.2 <3."
    )
    untagged: bool = Field(
        default=False, description="Take pushes without a tag, such as the parts of a multi-platform image."
    )
    keep: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Newest builds kept per repository; the tags of one build, by digest or second, count as one.",
    )


class PodsSpec(Spec):
    """Which Pods' images are wanted wherever further Pods of their owners can land."""

    selector: LabelSelector = Field(description="Over the Pods' labels; an empty one takes all Pods of this namespace.")


class WarmPolicySpec(Spec):
    """Which images should be on which nodes."""

    images: list[ImageText] = Field(
        default=[], max_length=256, description="Images that are wanted as long as the policy exists."
    )
    push: list[PushSpec] = Field(default=[], max_length=64, description="What registry pushes add.")
    pods: PodsSpec | None = Field(
        default=None, description="What the creation of Pods in the policy's own namespace adds."
    )
    prefer_warm: bool = Field(
        default=False,
        description="Pods of this namespace that the policy concerns prefer nodes that have their images.",
    )
    template: TemplateSpec = Field(default=TemplateSpec(), description="How every image of this policy is warmed.")


class WarmPolicyStatus(Spec):
    """Whether the policy can be used, and what it led to."""

    observed_generation: int | None = None
    images: Count | None = Field(default=None, description="WarmImages of this policy.")
    conditions: list[Condition] | None = Field(default=None, max_length=16, json_schema_extra=CONDITIONS)


class _WarmPolicy(Spec):
    """The rules a person writes: which images should be on which nodes before a Pod needs them."""

    spec: WarmPolicySpec
    status: WarmPolicyStatus | None = None


def warmpolicy_crd() -> Object:
    """The CustomResourceDefinition."""
    return custom_resource_definition(
        "WarmPolicy",
        "warmpolicies",
        "wp",
        _WarmPolicy,
        [
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Images", "integer", ".status.images"),
            Column("Message", "string", '.status.conditions[?(@.type=="Ready")].message', priority=1),
            Column("Age", "date", ".metadata.creationTimestamp"),
        ],
    )


def read_warmpolicy(obj: Object) -> Policy:
    """The value of a WarmPolicy object. Raises `InvalidObject` for what the CRD's schema could not rule out."""
    metadata: dict[str, Any] = obj["metadata"]
    try:
        spec = WarmPolicySpec.model_validate(obj.get("spec") or {})
    except ValidationError as error:
        raise InvalidObject(first_problem(error)) from error
    try:
        template = spec.template.value()
    except InvalidObject as error:
        raise InvalidObject(f"spec.template.{error}") from error
    return Policy(
        key=ObjectKey(metadata["namespace"], metadata["name"]),
        images=tuple(_image(index, text) for index, text in enumerate(spec.images)),
        push=tuple(_rule(index, rule) for index, rule in enumerate(spec.push)),
        pods=_pods(spec.pods),
        prefer_warm=spec.prefer_warm,
        template=template,
        generation=metadata.get("generation", 0),
    )


def _pods(pods: PodsSpec | None) -> Selector | None:
    if pods is None:
        return None
    try:
        return parse_selector(pods.selector.model_dump(by_alias=True))
    except NotASelector as error:
        raise InvalidObject(f"spec.pods.selector: {error}") from error


def _image(index: int, text: str) -> Reference:
    try:
        return parse_reference(text, default_tag="latest")
    except NotAReference as error:
        raise InvalidObject(f"spec.images[{index}]: {error}") from error


def _rule(index: int, rule: PushSpec) -> PushRule:
    semver: Range | None = None
    if rule.semver is not None:
        try:
            semver = parse_range(rule.semver)
        except NotARange as error:
            raise InvalidObject(f"spec.push[{index}].semver: {error}") from error
    return PushRule(rule.repository, tuple(rule.tags), tuple(rule.exclude), semver, rule.untagged, rule.keep)
