"""Where can further Pods of an owner land? Node affinity, taints and tolerations, as the scheduler's filters read them.

Facts: k8s.io/component-helpers/scheduling/corev1 (nodeaffinity, `FindMatchingUntoleratedTaint`) and
k8s.io/api/core/v1 (`Toleration.ToleratesTaint`), v0.37.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from warmhook.labels import NotASelector, Operator, Requirement, parse_requirement, requirement_object

__all__ = [
    "PARTS_MAX",
    "TERMS_MAX",
    "TOLERATIONS_MAX",
    "VALUES_MAX",
    "Affinity",
    "Constraints",
    "Taint",
    "Term",
    "Toleration",
    "TolerationOperator",
    "TooManyTerms",
    "affinity_object",
    "blocking_taints",
    "intersect",
    "matches_node",
    "parse_affinity",
    "parse_tolerations",
    "tolerates",
    "toleration_object",
]

TERMS_MAX: Final = 64
"""Terms of an affinity, and requirements of a term; what a Pod asks beyond that is not followed."""
TOLERATIONS_MAX: Final = 64
VALUES_MAX: Final = 256
PARTS_MAX: Final = 1024
"""Requirements of an affinity and their values, all together: each is compared with each node."""

_NAME_FIELD: Final = "metadata.name"
_FIELD_OPERATORS: Final[tuple[Operator, ...]] = ("In", "NotIn")
# What a cordoned node has, whether or not its taint was added yet.
_CORDONED: Final = "node.kubernetes.io/unschedulable"
# States of a node that pass by themselves: Pods land there again, and an image that is wanted then should be there.
_PASSING: Final = frozenset(
    f"node.kubernetes.io/{state}"
    for state in ("not-ready", "unreachable", "network-unavailable", "memory-pressure", "pid-pressure")
) | {"node.cloudprovider.kubernetes.io/uninitialized", "karpenter.sh/unregistered"}
# Startup taints: a node has them in its first minute, which is when images have to come. The last part is what Cilium
# and the CSI drivers of the clouds use; the prefixes are of the cluster autoscaler, which ignores such taints as well.
_STARTUP_NAME: Final = "/agent-not-ready"
_STARTUP_PREFIXES: Final = (
    "startup-taint.cluster-autoscaler.kubernetes.io/",
    "ignore-taint.cluster-autoscaler.kubernetes.io/",
)
# What Gt and Lt compare (k8s.io/apimachinery/pkg/api/validate/content.IsDecimalInteger).
_DECIMAL: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")


TolerationOperator: TypeAlias = Literal["Equal", "Exists", "Gt", "Lt"]


class TooManyTerms(ValueError):
    """The constraints have more parts than are followed."""


@dataclass(frozen=True, slots=True, order=True)
class Taint:
    """What keeps Pods off a node."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"
    """`NoSchedule`, `NoExecute`, or `PreferNoSchedule`, which keeps nothing off."""


@dataclass(frozen=True, slots=True, order=True)
class Toleration:
    """Which taints do not keep a Pod off."""

    key: str = ""
    """Empty: any key."""
    operator: TolerationOperator = "Equal"
    value: str = ""
    """Empty for Exists; for Gt and Lt an integer, than which the taint's is greater or less."""
    effect: str = ""
    """Empty: any effect."""

    def tolerates(self, taint: Taint) -> bool:
        """Whether this taint does not keep the Pod off."""
        if self.effect not in {"", taint.effect} or self.key not in {"", taint.key}:
            return False
        match self.operator:
            case "Exists":
                return True
            case "Equal":
                return self.value == taint.value
            case "Gt" | "Lt":
                if not _DECIMAL.fullmatch(self.value) or not _DECIMAL.fullmatch(taint.value):
                    return False
                more = int(taint.value) - int(self.value)
                return more > 0 if self.operator == "Gt" else more < 0


@dataclass(frozen=True, slots=True)
class Term:
    """Conditions on one node, all of which must hold; a term without any matches no node."""

    expressions: tuple[Requirement, ...] = ()
    """On its labels."""
    fields: tuple[Requirement, ...] = ()
    """On its name: `metadata.name` with In or NotIn."""

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the node of that name, with these labels, satisfies the term."""
        if not self.expressions and not self.fields:
            return False
        return all(it.matches({_NAME_FIELD: name}) for it in self.fields) and all(
            it.matches(labels) for it in self.expressions
        )


Affinity: TypeAlias = tuple[Term, ...]
"""A `v1.NodeSelector`: one of the terms must match. None at all match no node."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Where the Pods of an owner can land, as their spec says it."""

    affinity: Affinity | None = None
    """`nodeSelector`, `nodeName` and required node affinity together; `None`: any node."""
    tolerations: tuple[Toleration, ...] = ()

    def canonical(self) -> str:
        """The same text for the same constraints."""
        affinity = None if self.affinity is None else affinity_object(self.affinity)
        tolerations = [toleration_object(it) for it in self.tolerations]
        return json.dumps([affinity, tolerations], sort_keys=True, separators=(",", ":"))


def matches_node(affinity: Affinity, name: str, labels: Mapping[str, str]) -> bool:
    """Whether the affinity allows the node of that name with these labels."""
    return any(term.matches(name, labels) for term in affinity)


def tolerates(taints: Iterable[Taint], unschedulable: bool, tolerations: Iterable[Toleration]) -> bool:
    """Whether a node with these taints takes Pods with these tolerations, as soon as passing troubles have passed."""
    lasting = blocking_taints(taints, unschedulable)
    if not lasting:
        return True
    tolerations = tuple(tolerations)
    return all(any(it.tolerates(taint) for it in tolerations) for taint in lasting)


def blocking_taints(taints: Iterable[Taint], unschedulable: bool) -> list[Taint]:
    """What of a node has to be tolerated by a Pod that is to land there some day."""
    lasting = [it for it in taints if it.effect in {"NoSchedule", "NoExecute"} and not _passes(it.key)]
    return [*lasting, Taint(_CORDONED)] if unschedulable else lasting


def _passes(key: str) -> bool:
    """Whether a taint goes by itself."""
    return key in _PASSING or key.endswith(_STARTUP_NAME) or key.startswith(_STARTUP_PREFIXES)


def intersect(first: Affinity | None, second: Affinity | None) -> Affinity | None:
    """The affinity that both allow. Raises `TooManyTerms`."""
    if first is None or second is None:
        return second if first is None else first
    if len(first) * len(second) > TERMS_MAX:
        raise TooManyTerms(f"more than {TERMS_MAX} node selector terms together")
    # A term without conditions matches nothing, and so does everything joined with it.
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
    if sum(1 + len(it.values) for term in affinity for it in (*term.expressions, *term.fields)) > PARTS_MAX:
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
        parts.append(_sorted(read(one, f"{where}.{name}[{number}]") for number, one in enumerate(listed or ())))
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
    if not isinstance(values, list | tuple) or not values or not all(isinstance(it, str) for it in values):
        raise NotASelector(f"{where}.values: must be a list of names")
    if len(values) > VALUES_MAX:
        raise TooManyTerms(f"{where}.values: at most {VALUES_MAX}")
    return Requirement(_NAME_FIELD, operator, tuple(sorted(set(values))))


def parse_tolerations(obj: object) -> tuple[Toleration, ...]:
    """Read a Pod's tolerations in canonical order; one that cannot be read tolerates nothing.

    Left out are those of passing troubles, which every Pod is given. Raises `TooManyTerms`.
    """
    found = set()
    for one in obj if isinstance(obj, list | tuple) else ():
        toleration = _toleration(one)
        if toleration is not None and not (_passes(toleration.key) and toleration.operator == "Exists"):
            found.add(toleration)
    if len(found) > TOLERATIONS_MAX:
        raise TooManyTerms(f"tolerations: at most {TOLERATIONS_MAX}")
    return tuple(sorted(found))


def _toleration(obj: object) -> Toleration | None:
    if not isinstance(obj, Mapping):
        return None
    key, value, effect = (obj.get(name) or "" for name in ("key", "value", "effect"))
    if not isinstance(key, str) or not isinstance(value, str) or not isinstance(effect, str):
        return None
    match obj.get("operator") or "Equal":
        case "Exists":
            return Toleration(key, "Exists", "", effect)
        case "Equal" | "Gt" | "Lt" as operator:
            return Toleration(key, operator, value, effect)
        case _:  # of a newer API
            return None


def affinity_object(affinity: Affinity) -> dict[str, Any]:
    """The `v1.NodeSelector` that `parse_affinity` reads back."""
    return {
        "nodeSelectorTerms": [
            {
                name: [requirement_object(it) for it in requirements]
                for name, requirements in (("matchExpressions", term.expressions), ("matchFields", term.fields))
                if requirements
            }
            for term in affinity
        ]
    }


def toleration_object(toleration: Toleration) -> dict[str, str]:
    """The `v1.Toleration`."""
    fields = {"key": toleration.key, "operator": toleration.operator, "value": toleration.value}
    return {name: text for name, text in (fields | {"effect": toleration.effect}).items() if text}


def _sorted(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    return tuple(sorted(set(requirements), key=_order))


def _order(requirement: Requirement) -> tuple[str, str, tuple[str, ...]]:
    return requirement.key, requirement.operator, requirement.values


def _order_of_term(term: Term) -> tuple[list[tuple[str, str, tuple[str, ...]]], ...]:
    return [_order(it) for it in term.expressions], [_order(it) for it in term.fields]
