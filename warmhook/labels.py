"""Match labels against label selectors.

The selectors are those of Kubernetes objects (`matchLabels`, `matchExpressions`), with the meaning that
k8s.io/apimachinery/pkg/labels gives them: NotIn and DoesNotExist also match where the label is absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

Operator: TypeAlias = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
NODE_OPERATORS: Final[tuple[Operator, ...]] = get_args(Operator)
"""The operators of node affinity; `Gt` and `Lt` compare the label as an integer and have no query-string form."""
LABEL_OPERATORS: Final = NODE_OPERATORS[:4]
"""The operators of label selectors."""

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_PREFIX = re.compile(rf"{_PREFIX_LABEL}(?:\.{_PREFIX_LABEL})*")
_PREFIX_MAX: Final = 253
_INTEGER = re.compile(r"[+-]?[0-9]+")


class TooManyTerms(ValueError):
    """The constraints of a Pod have more parts than are evaluated."""


class NotASelector(ValueError):
    """The object is not a selector, or has no such form; the message names the place and the problem."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()
    """At least one for In and NotIn, none for Exists and DoesNotExist, one integer for Gt and Lt."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels satisfy the condition; for Gt and Lt the label must be an integer."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                number, bound = _integer(value), _integer(self.values[0])
                if number is None or bound is None:
                    return False
                return number > bound if self.operator == "Gt" else number < bound

    def query(self) -> str:
        """The condition as the API's `labelSelector` writes it. Raises `NotASelector` for Gt and Lt."""
        match self.operator:
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case "In" | "NotIn":
                values = sorted(set(self.values))
                if len(values) == 1:  # an empty value can only be written so: `key in ()` names no value
                    return f"{self.key}{'=' if self.operator == 'In' else '!='}{values[0]}"
                return f"{self.key} {self.operator.lower()} ({','.join(values)})"
            case "Gt" | "Lt":
                raise NotASelector(f"{self.key}: {self.operator} cannot be asked of the API server")


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold; an empty selector matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels satisfy every condition."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def query(self) -> str:
        """The value of the query parameter `labelSelector`, not yet percent-encoded; empty if everything matches.

        Raises `NotASelector` if a condition has no such form.
        """
        return ",".join(requirement.query() for requirement in self.requirements)


def parse_selector(obj: Mapping[str, Any]) -> Selector:
    """Read a `metav1.LabelSelector`; a missing or null field is no condition. Raises `NotASelector`."""
    unknown = set(obj) - {"matchLabels", "matchExpressions"}
    if unknown:
        # If it were ignored, a misspelt `matchLabel` would select every node.
        raise NotASelector(f"{min(map(str, unknown))}: unknown field (matchLabels and matchExpressions are known)")
    labels, expressions = obj.get("matchLabels"), obj.get("matchExpressions")
    if not isinstance(labels, Mapping | None):
        raise NotASelector("matchLabels: must be a map of strings")
    if not isinstance(expressions, list | tuple | None):
        raise NotASelector("matchExpressions: must be a list")
    requirements = [
        Requirement(_key(key, "matchLabels"), "In", (_value(value, f"matchLabels[{key}]"),))
        for key, value in sorted((labels or {}).items(), key=lambda item: str(item[0]))
    ]
    for number, expression in enumerate(expressions or ()):
        requirements.append(parse_requirement(expression, f"matchExpressions[{number}]", LABEL_OPERATORS))
    return Selector(tuple(requirements))


def parse_requirement(
    obj: object, where: str = "matchExpressions", operators: tuple[Operator, ...] = NODE_OPERATORS
) -> Requirement:
    """Read `{key, operator, values}`, of a label selector or of a node selector term.

    `where` begins the messages, `operators` are those allowed. Raises `NotASelector`.
    """
    if not isinstance(obj, Mapping):
        raise NotASelector(f"{where}: must be a map with key, operator and values")
    unknown = set(obj) - {"key", "operator", "values"}
    if unknown:
        raise NotASelector(f"{where}.{min(map(str, unknown))}: unknown field (key, operator and values are known)")
    key = _key(obj.get("key"), f"{where}.key")
    operator = next((known for known in operators if known == obj.get("operator")), None)
    if operator is None:
        raise NotASelector(f"{where}.operator: {obj.get('operator')!r} is none of {', '.join(operators)}")
    listed = obj.get("values")
    if not isinstance(listed, list | tuple | None):
        raise NotASelector(f"{where}.values: must be a list of strings")
    values = tuple(_value(value, f"{where}.values[{number}]") for number, value in enumerate(listed or ()))
    if operator in {"In", "NotIn"} and not values:
        raise NotASelector(f"{where}.values: {operator} needs at least one value")
    if operator in {"Exists", "DoesNotExist"} and values:
        raise NotASelector(f"{where}.values: {operator} takes no values")
    if operator in {"Gt", "Lt"} and (len(values) != 1 or _integer(values[0]) is None):
        raise NotASelector(f"{where}.values: {operator} takes exactly one integer")
    return Requirement(key, operator, values)


def requirement_object(requirement: Requirement) -> dict[str, Any]:
    """The `{key, operator, values}` that `parse_requirement` reads; `values` only if there are any."""
    values = {"values": list(requirement.values)} if requirement.values else {}
    return {"key": requirement.key, "operator": requirement.operator, **values}


def _key(key: object, where: str) -> str:
    if isinstance(key, str):
        prefix, slash, name = key.rpartition("/")
        prefix_fits = not slash or (len(prefix) <= _PREFIX_MAX and _PREFIX.fullmatch(prefix))
        if prefix_fits and _NAME.fullmatch(name):
            return key
    raise NotASelector(
        f"{where}: {key!r} is no label key (up to 63 letters, digits, '-', '_', '.', with an optional DNS name and '/')"
    )


def _value(value: object, where: str) -> str:
    if isinstance(value, str) and (not value or _NAME.fullmatch(value)):
        return value
    raise NotASelector(f"{where}: {value!r} is no label value (up to 63 letters, digits, '-', '_', '.', or empty)")


def _integer(text: str | None) -> int | None:
    """The result of Go's ParseInt: a signed 64-bit decimal; `None` if the text is not one."""
    # The limit protects Python's slow conversion from a hostile label.
    if text is None or len(text) > 63 or not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None
