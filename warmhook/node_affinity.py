"""Decide which nodes the affinity of a Pod allows, as the scheduler does.

Facts: k8s.io/component-helpers/scheduling/corev1 (nodeaffinity), v0.37.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from warmhook.labels import NotASelector, Operator, Requirement, TooManyTerms, parse_requirement, requirement_object
from warmhook.taints import Toleration, toleration_object

TERMS_MAX: Final = 64
"""Terms of an affinity, and requirements of a term; a Pod with more is ignored."""
VALUES_MAX: Final = 256
PARTS_MAX: Final = 1024
"""Requirements of an affinity and their values together: each is compared with each node."""

_NAME_FIELD: Final = "metadata.name"
_FIELD_OPERATORS: Final[tuple[Operator, ...]] = ("In", "NotIn")


@dataclass(frozen=True, slots=True)
class Term:
    """Conditions on one node, all of which must hold; a term without any matches no node."""

    expressions: tuple[Requirement, ...] = ()
    """Conditions on its labels."""
    fields: tuple[Requirement, ...] = ()
    """Conditions on its name: `metadata.name` with In or NotIn."""

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the node of that name, with these labels, satisfies the term."""
        if not self.expressions and not self.fields:
            return False
        return all(field.matches({_NAME_FIELD: name}) for field in self.fields) and all(
            expression.matches(labels) for expression in self.expressions
        )


Affinity: TypeAlias = tuple[Term, ...]
"""A `v1.NodeSelector`: one of the terms must match. Without terms it matches no node."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """The constraints of the Pods of an owner on nodes, from their spec."""

    affinity: Affinity | None = None
    """`nodeSelector`, `nodeName` and required node affinity together; `None`: any node."""
    tolerations: tuple[Toleration, ...] = ()

    def canonical(self) -> str:
        """The same text for the same constraints, from which names are made.

        An absent constraint adds nothing, so a field that is added here changes no name that exists.
        """
        given: dict[str, Any] = {}
        if self.affinity is not None:
            given["affinity"] = affinity_object(self.affinity)
        if self.tolerations:
            given["tolerations"] = list(map(toleration_object, self.tolerations))
        return json.dumps(given, sort_keys=True, separators=(",", ":"))


def matches_node(affinity: Affinity, name: str, labels: Mapping[str, str]) -> bool:
    """Whether the affinity allows the node of that name with these labels."""
    return any(term.matches(name, labels) for term in affinity)


def intersect(first: Affinity | None, second: Affinity | None) -> Affinity | None:
    """The affinity that matches the nodes of both. Raises `TooManyTerms`."""
    if first is None or second is None:
        return second if first is None else first
    if len(first) * len(second) > TERMS_MAX:
        raise TooManyTerms(f"more than {TERMS_MAX} node selector terms together")
    # A term without conditions matches nothing, and so does every combination with it.
    terms = {
        Term(_sorted(a.expressions + b.expressions), _sorted(a.fields + b.fields))
        for a in first
        for b in second
        if a != Term() and b != Term()
    }
    if any(len(term.expressions) > TERMS_MAX or len(term.fields) > TERMS_MAX for term in terms):
        raise TooManyTerms(f"more than {TERMS_MAX} requirements in a node selector term")
    return _bounded(tuple(sorted(terms, key=_order_of_term)))


# --- reading and writing ---------------------------------------------------------------------------------------------


def parse_affinity(obj: object, *, strict: bool = True) -> Affinity:
    """Read a `v1.NodeSelector` in canonical order.

    A term that cannot be read matches nothing, as for the scheduler; with `strict` it raises `NotASelector`. Raises
    `TooManyTerms`.
    """
    listed = obj.get("nodeSelectorTerms") if isinstance(obj, Mapping) else None
    if not isinstance(listed, list | tuple):
        if strict:
            raise NotASelector("nodeSelectorTerms: must be a list")
        listed = ()
    if len(listed) > TERMS_MAX:
        raise TooManyTerms(f"nodeSelectorTerms: at most {TERMS_MAX}")
    terms = set()
    for number, term in enumerate(listed):
        try:
            terms.add(_term(term, f"nodeSelectorTerms[{number}]"))
        except NotASelector:
            if strict:
                raise
    return _bounded(tuple(sorted(terms, key=_order_of_term)))


def _bounded(affinity: Affinity) -> Affinity:
    if (
        sum(1 + len(requirement.values) for term in affinity for requirement in (*term.expressions, *term.fields))
        > PARTS_MAX
    ):
        raise TooManyTerms(f"nodeSelectorTerms: at most {PARTS_MAX} requirements and values together")
    return affinity


def _term(obj: object, where: str) -> Term:
    if not isinstance(obj, Mapping):
        raise NotASelector(f"{where}: must be a map with matchExpressions and matchFields")
    parts: list[tuple[Requirement, ...]] = []
    for name in ("matchExpressions", "matchFields"):
        listed = obj.get(name)
        if not isinstance(listed, list | tuple | None):
            raise NotASelector(f"{where}.{name}: must be a list")
        if len(listed or ()) > TERMS_MAX:
            raise TooManyTerms(f"{where}.{name}: at most {TERMS_MAX}")
        read = _field if name == "matchFields" else _expression
        parts.append(_sorted(read(item, f"{where}.{name}[{number}]") for number, item in enumerate(listed or ())))
    return Term(*parts)


def _expression(obj: object, where: str) -> Requirement:
    requirement = parse_requirement(obj, where)
    if len(requirement.values) > VALUES_MAX:
        raise TooManyTerms(f"{where}.values: at most {VALUES_MAX}")
    return Requirement(requirement.key, requirement.operator, tuple(sorted(set(requirement.values))))


def _field(obj: object, where: str) -> Requirement:
    # Not through parse_requirement: a node's name may be longer than a label's value.
    if not isinstance(obj, Mapping) or obj.get("key") != _NAME_FIELD:
        raise NotASelector(f"{where}.key: must be {_NAME_FIELD}")
    operator = next((known for known in _FIELD_OPERATORS if known == obj.get("operator")), None)
    if operator is None:
        raise NotASelector(f"{where}.operator: {obj.get('operator')!r} is none of {', '.join(_FIELD_OPERATORS)}")
    values = obj.get("values")
    if not isinstance(values, list | tuple) or not values or not all(isinstance(value, str) for value in values):
        raise NotASelector(f"{where}.values: must be a list of names")
    if len(values) > VALUES_MAX:
        raise TooManyTerms(f"{where}.values: at most {VALUES_MAX}")
    return Requirement(_NAME_FIELD, operator, tuple(sorted(set(values))))


def affinity_object(affinity: Affinity) -> dict[str, Any]:
    """The `v1.NodeSelector` that `parse_affinity` reads."""
    return {
        "nodeSelectorTerms": [
            {
                name: [requirement_object(requirement) for requirement in requirements]
                for name, requirements in (("matchExpressions", term.expressions), ("matchFields", term.fields))
                if requirements
            }
            for term in affinity
        ]
    }


def _sorted(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    return tuple(sorted(set(requirements), key=_order))


def _order(requirement: Requirement) -> tuple[str, str, tuple[str, ...]]:
    return requirement.key, requirement.operator, requirement.values


def _order_of_term(term: Term) -> tuple[list[tuple[str, str, tuple[str, ...]]], ...]:
    return [_order(requirement) for requirement in term.expressions], [
        _order(requirement) for requirement in term.fields
    ]
