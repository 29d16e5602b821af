"""Define the CRD of WarmPolicy, and read its objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from adapters.kubernetes.crd import SET, Column, custom_resource_definition, rules, validated
from adapters.kubernetes.patterns import RANGE_RULE
from adapters.kubernetes.template import SUSPEND, ImageText, InvalidObject, LabelSelector, Spec, TemplateSpec
from adapters.kubernetes.warmimage import CONDITIONS, Condition, Count, Generation
from adapters.validation_errors import first_problem
from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.labels import Selector, parse_selector
from warmhook.policies import Part, Policy
from warmhook.ports import Object
from warmhook.requests import read_requests
from warmhook.rules import PushRule
from warmhook.semver import parse_range
from warmhook.warmimages import Limit, Nodes, ObjectKey, Template

_KEEP_MAX: Final = 100
# Characters of all globs of a policy: each push is compared with each of them.
_REPOSITORIES_MAX: Final = 2048
_TAGS_MAX: Final = 4096
_TAGS_CHARACTERS: Final = (
    "self.push.map(rule, rule.tags.map(tag, size(tag)).sum() + rule.exclude.map(tag, size(tag)).sum()).sum()"
)

Glob = Annotated[str, StringConstraints(min_length=1, max_length=512)]
TagGlob = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class PushSpec(Spec):
    """Which pushes are taken; `exclude` wins over `tags`."""

    repository: Glob = Field(
        description="Glob over host and repository, such as harbor.example.com/shop/**; * stops at a slash."
    )
    tags: list[TagGlob] = Field(
        default=["*"], max_length=64, json_schema_extra=SET, description="Globs over tags; one must match."
    )
    exclude: list[TagGlob] = Field(
        default=[], max_length=64, json_schema_extra=SET, description="Globs over tags that are not taken."
    )
    semver: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=256),
            Field(json_schema_extra=rules(RANGE_RULE)),
        ]
        | None
    ) = Field(default=None, description="Only tags that are semantic versions in this range, such as >=1.2 <3.")
    untagged: bool = Field(
        default=False, description="Take pushes without a tag, such as the parts of a multi-platform image."
    )
    keep: int = Field(
        default=1,
        ge=1,
        le=_KEEP_MAX,
        description="Newest builds kept per repository; the tags of one build, by digest or second, count as one.",
    )


class PodsSpec(Spec):
    """Which Pods' images are wanted wherever further Pods of their owners can land."""

    selector: LabelSelector = Field(description="Over the Pods' labels; an empty one takes all Pods of this namespace.")
    existing: bool = Field(default=False, description="Take the images of Pods that exist already as well.")


class RolloutsSpec(Spec):
    """Which workloads' new images are wanted on the nodes of their Pods before the rollout reaches them."""

    selector: LabelSelector = Field(
        description="Over the labels of Deployments, StatefulSets, DaemonSets and CloneSets; an empty one takes all."
    )


class WarmPolicySpec(Spec):
    """Which images should be on which nodes."""

    model_config = validated(
        (
            f"self.push.map(rule, size(rule.repository)).sum() <= {_REPOSITORIES_MAX}",
            f"the globs over repositories have more than {_REPOSITORIES_MAX} characters together",
        ),
        (
            f"{_TAGS_CHARACTERS} <= {_TAGS_MAX}",
            f"the globs over tags have more than {_TAGS_MAX} characters together",
        ),
        (
            "!has(self.template.lifetime.ttlSecondsAfterFinished)",
            "ttlSecondsAfterFinished is for a WarmImage without a policy; here use push[].keep and expireAfterSeconds",
        ),
    )

    images: list[ImageText] = Field(
        default=[],
        max_length=256,
        json_schema_extra=SET,
        description="Images that are wanted as long as the policy exists.",
    )
    push: list[PushSpec] = Field(default=[], max_length=64, description="What registry pushes add.")
    pods: PodsSpec | None = Field(
        default=None, description="What the creation of Pods in the policy's own namespace adds."
    )
    rollouts: RolloutsSpec | None = Field(
        default=None, description="What changed workloads in the policy's own namespace add."
    )
    prefer_warm: bool = Field(
        default=False,
        description="Pods of this namespace that the policy concerns prefer nodes that have their images.",
    )
    suspend: bool = Field(default=False, description=SUSPEND)
    template: TemplateSpec = Field(default=TemplateSpec(), description="How every image of this policy is warmed.")


class WarmPolicyStatus(Spec):
    """Whether the policy can be used, and what it led to."""

    observed_generation: Generation | None = Field(default=None, description="The generation that was read.")
    images: Count | None = Field(default=None, description="WarmImages of this policy.")
    conditions: list[Condition] | None = Field(
        default=None,
        max_length=16,
        json_schema_extra=CONDITIONS,
        description="Ready: every part of the policy can be used. Degraded: the API server refused a WarmImage.",
    )


class _WarmPolicy(Spec):
    """The rules a person writes: which images should be on which nodes before a Pod needs them."""

    spec: WarmPolicySpec = Field(description="What is wanted.")
    status: WarmPolicyStatus | None = Field(default=None, description="What there is; written by Warmhook.")


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
    """The value of a WarmPolicy object, read part by part: `problems` names the unreadable parts.

    Raises `InvalidObject` if there is no spec to read.
    """
    metadata: dict[str, Any] = obj["metadata"]
    spec = obj.get("spec") or {}
    if not isinstance(spec, Mapping):
        raise InvalidObject("spec: must be an object")
    problems: list[str] = []
    unread: set[Part] = set()
    images = [_read(_image, text, f"spec.images[{at}]", problems) for at, text in enumerate(_list(spec, "images"))]
    if None in images:
        unread.add("images")
    push = [_rule(rule, f"spec.push[{at}]", problems) for at, rule in enumerate(_list(spec, "push"))]
    pods = rollouts = None
    if spec.get("pods") is not None and (pods := _read(_pods, spec["pods"], "spec.pods", problems)) is None:
        unread.add("pods")
    if spec.get("rollouts") is not None:
        rollouts = _read(_rollouts, spec["rollouts"], "spec.rollouts", problems)
        if rollouts is None:
            unread.add("rollouts")
    template = _read(_template, spec.get("template") or {}, "spec.template", problems)
    if template is None:
        unread.add("template")
    return Policy(
        key=ObjectKey(metadata["namespace"], metadata["name"]),
        images=tuple(image for image in images if image is not None),
        push=tuple(push),
        pods=pods and pods[0],
        pods_existing=pods is not None and pods[1],
        rollouts=rollouts,
        prefer_warm=spec.get("preferWarm") is True,
        # Pushes meanwhile are written and wait: no push is lost when a person fixes the template.
        template=replace(
            Template(Nodes(limit=Limit(0))) if template is None else template,
            suspend=spec.get("suspend") is True,
            requests=read_requests(metadata.get("annotations")),
        ),
        problems=tuple(problems),
        unread=frozenset(unread),
    )


Read = TypeVar("Read")


def _read(read: Callable[[Any], Read], part: object, where: str, problems: list[str]) -> Read | None:
    """The result of `read` for one part; `None` and one more problem if it cannot be read."""
    try:
        return read(part)
    except ValidationError as error:
        path, message = first_problem(error)
        problems.append(f"{'.'.join((where, *path))}: {message}")
    except InvalidObject as error:
        problems.append(f"{where}.{error}")
    except ValueError as error:  # NotAReference, NotASelector, NotARange
        problems.append(f"{where}: {error}")
    return None


def _list(spec: Mapping[str, Any], name: str) -> list[Any]:
    listed = spec.get(name) or []
    return listed if isinstance(listed, list) else [listed]


def _image(text: Any) -> Reference:
    if not isinstance(text, str):
        raise NotAReference(f"{text!r} is no string")
    return parse_reference(text, default_tag="latest")


def _pods(pods: Any) -> tuple[Selector, bool]:
    spec = PodsSpec.model_validate(pods)
    return parse_selector(spec.selector.model_dump(by_alias=True)), spec.existing


def _rollouts(rollouts: Any) -> Selector:
    return parse_selector(RolloutsSpec.model_validate(rollouts).selector.model_dump(by_alias=True))


def _template(template: Any) -> Template:
    return TemplateSpec.model_validate(template).value()


def _rule(rule: Any, where: str, problems: list[str]) -> PushRule:
    spec = _read(PushSpec.model_validate, rule, where, problems)
    if spec is None:
        # It may have matched anything.
        return PushRule("**", untagged=True, keep=_KEEP_MAX, unread=True)
    semver = None if spec.semver is None else _read(parse_range, spec.semver, f"{where}.semver", problems)
    unread = spec.semver is not None and semver is None
    return PushRule(
        spec.repository, tuple(spec.tags), tuple(spec.exclude), semver, spec.untagged, spec.keep, unread=unread
    )
