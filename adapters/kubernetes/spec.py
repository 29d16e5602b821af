"""Define what the models of specs share: their base, their errors, label selectors and limits."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel

from adapters.kubernetes.crd import ATOMIC, pattern, validated
from adapters.kubernetes.patterns import LABEL_KEY, LABEL_VALUE
from adapters.validation_errors import problems
from warmhook.labels import NotASelector, Selector, parse_selector
from warmhook.warmimages import Limit

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317), pattern(LABEL_KEY)]
LabelValue = Annotated[str, StringConstraints(max_length=63), pattern(LABEL_VALUE)]

REQUIREMENTS_MAX: Final = 64
_DIGITS_MAX: Final = 5

# An int-or-string in the form of the API server; the pattern is for the string.
LimitText = Annotated[
    int | str,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": "^([0-9]{1,5}|[0-9]{1,2}%|100%)$",
            "minimum": 0,
            "maximum": 99999,
        }
    ),
]


class InvalidObject(ValueError):
    """A WarmPolicy or WarmImage has an invalid field; the message names it."""


class NewerObject(InvalidObject):
    """It has a field or a value that this version does not know, and the API server does: a newer version serves it."""


UNKNOWN: Final = "unknown to this version of Warmhook"
# Of pydantic's errors: the API server drops unknown fields and refuses unknown values, if its CRD is not newer.
_OF_NEWER: Final = frozenset({"extra_forbidden", "literal_error"})


def invalid_object(error: ValidationError, where: str) -> InvalidObject:
    """The error with the path of the field below `where`."""
    own, unknown = problems(error, _OF_NEWER)
    path, message = (own or unknown)[0]
    place = ".".join((where, *path))
    return InvalidObject(f"{place}: {message}") if own else NewerObject(f"{place}: {UNKNOWN}")


class Spec(BaseModel):
    """Base of all models: camelCase on the wire.

    Ignoring a field of a newer version could widen what a selector or a rule takes, so it is an error.
    """

    # Built when first used, with the models in it and not each by itself: a program starts sooner.
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, defer_build=True
    )


VALUES_RULE: Final = (
    "self.operator in ['In', 'NotIn'] ? size(self.values) > 0"
    " : !(self.operator in ['Exists', 'DoesNotExist']) || size(self.values) == 0"
)
VALUES_MESSAGE: Final = "In and NotIn need values, Exists and DoesNotExist take none"


class LabelRequirement(Spec):
    """One requirement on labels."""

    model_config = validated((VALUES_RULE, VALUES_MESSAGE))

    key: LabelKey = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label is compared; NotIn and DoesNotExist also match objects without it."
    )
    values: list[LabelValue] = Field(default=[], max_length=256, description="Values for In and NotIn.")


class LabelSelector(Spec):
    """Labels that must be there; all requirements must hold."""

    model_config = validated(
        (
            f"size(self.matchLabels) + size(self.matchExpressions) <= {REQUIREMENTS_MAX}",
            f"at most {REQUIREMENTS_MAX} labels and expressions together",
        ),
        (f"self.matchLabels.all(key, size(key) <= 317 && key.matches(r'{LABEL_KEY}'))", "keys must be label keys"),
        **ATOMIC,
    )

    match_labels: dict[LabelKey, LabelValue] = Field(
        default={}, max_length=REQUIREMENTS_MAX, description="Labels with exactly these values."
    )
    match_expressions: list[LabelRequirement] = Field(
        default=[], max_length=REQUIREMENTS_MAX, description="Requirements on labels."
    )


def read_selector(given: LabelSelector | None, where: str) -> Selector | None:
    """The value of a selector; `where` names the field. Raises `InvalidObject`."""
    if given is None:
        return None
    try:
        selector = parse_selector(given.model_dump(by_alias=True))
    except NotASelector as error:
        raise InvalidObject(f"{where}: {error}") from error
    if len(selector.requirements) > REQUIREMENTS_MAX:
        # A WarmImage has all of them in `matchExpressions`.
        raise InvalidObject(f"{where}: at most {REQUIREMENTS_MAX} labels and expressions together")
    return selector


def read_limit(limit: int | str | None, where: str) -> Limit | None:
    """The value of a limit; `where` names the field. Raises `InvalidObject`."""
    if limit is None:
        return None
    digits, percent = str(limit).removesuffix("%"), str(limit).endswith("%")
    # The length first: Python refuses to read an integer of thousands of digits.
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX
    if not is_number or (percent and int(digits) > 100):
        shown = str(limit)[:100]
        raise InvalidObject(f"{where}: {shown!r} is neither a number of nodes nor a percentage up to 100%")
    return Limit(int(digits), percent)
