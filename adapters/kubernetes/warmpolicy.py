"""Define the CRD of WarmPolicy, and read its objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from adapters.kubernetes.crd import SET, Column, custom_resource_definition, rules, validated
from adapters.kubernetes.patterns import RANGE_RULE, REPOSITORY_RULE
from adapters.kubernetes.spec import UNKNOWN, InvalidObject, LabelSelector, NewerObject, Spec, invalid_object
from adapters.kubernetes.template import SUSPEND, ImageText, TemplateSpec
from adapters.kubernetes.warmimage import CONDITIONS, Condition, Count, Generation
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
        json_schema_extra=rules(REPOSITORY_RULE),
        description="Glob over host and repository, such as harbor.example.com/shop/**; * stops at a slash.",
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
    existing: bool = Field(
        default=False, description="Keep the images of all existing Pods on all nodes of the template."
    )


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


_STATUS_FIELDS: Final = frozenset(map(to_camel, WarmPolicyStatus.model_fields))


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


def unknown_policy_status(status: Mapping[str, Any]) -> Object:
    """The fields of a status that a newer version of Warmhook wrote."""
    return {name: value for name, value in status.items() if name not in _STATUS_FIELDS}


def read_warmpolicy(obj: Object) -> Policy:
    """The value of a WarmPolicy object, read part by part: `problems` names the unreadable parts.

    Raises `InvalidObject` if there is no spec to read.
    """
    metadata: dict[str, Any] = obj["metadata"]
    given = obj.get("spec") or {}
    if not isinstance(given, Mapping):
        raise InvalidObject("spec: must be an object")
    parts = _Parts()
    spec = parts.known(WarmPolicySpec, given, "spec")
    images = [parts.read(_image, text, f"spec.images[{at}]") for at, text in enumerate(_list(spec, "images"))]
    if None in images:
        parts.unread.add("images")
    push = [_rule(rule, f"spec.push[{at}]", parts) for at, rule in enumerate(_list(spec, "push"))]
    pods = rollouts = None
    if spec.get("pods") is not None and (pods := parts.read(_pods, spec["pods"], "spec.pods")) is None:
        parts.unread.add("pods")
    if spec.get("rollouts") is not None:
        rollouts = parts.read(_rollouts, spec["rollouts"], "spec.rollouts")
        if rollouts is None:
            parts.unread.add("rollouts")
    template = parts.read(_template, spec.get("template") or {}, "spec.template")
    if template is None:
        parts.unread.add("template")
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
        problems=tuple(parts.problems),
        unread=frozenset(parts.unread),
    )


Read = TypeVar("Read")


@dataclass(eq=False)
class _Parts:
    """What is wrong with the parts of a policy."""

    problems: list[str] = field(default_factory=list)
    unread: set[Part] = field(default_factory=set)

    def read(self, read: Callable[[Any], Read], part: object, where: str) -> Read | None:
        """The result of `read` for one part; `None` and one more problem if it cannot be read."""
        try:
            return read(part)
        except ValidationError as error:
            problem = invalid_object(error, where)
        except InvalidObject as error:
            problem = InvalidObject(f"{where}.{error}")
        except ValueError as error:  # NotAReference, NotASelector, NotARange
            problem = InvalidObject(f"{where}: {error}")
        self.problems.append(str(problem))
        if isinstance(problem, NewerObject):
            self.unread.add("unknown")
        return None

    def known(self, model: type[BaseModel], given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The fields that `model` has; each other one is a problem."""
        names = set(map(to_camel, model.model_fields))
        unknown = sorted(given.keys() - names)
        self.problems += [f"{where}.{name}: {UNKNOWN}" for name in unknown]
        if unknown:
            self.unread.add("unknown")
        return {name: value for name, value in given.items() if name in names}


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


def _rule(rule: Any, where: str, parts: _Parts) -> PushRule:
    if isinstance(rule, Mapping):
        # Without a field of a newer version it may take too many pushes, which a newer replica corrects; none is lost.
        rule = parts.known(PushSpec, rule, where)
    spec = parts.read(PushSpec.model_validate, rule, where)
    if spec is None:
        # It may have matched anything.
        return PushRule("**", untagged=True, keep=_KEEP_MAX, unread=True)
    semver = None if spec.semver is None else parts.read(parse_range, spec.semver, f"{where}.semver")
    unread = spec.semver is not None and semver is None
    return PushRule(
        spec.repository, tuple(spec.tags), tuple(spec.exclude), semver, spec.untagged, spec.keep, unread=unread
    )
