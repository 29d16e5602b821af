"""Decide which taints keep a Pod off a node, as the scheduler does.

Facts: k8s.io/component-helpers/scheduling/corev1 (`FindMatchingUntoleratedTaint`) and k8s.io/api/core/v1
(`Toleration.ToleratesTaint`), v0.37.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from warmhook.labels import TooManyTerms

TOLERATIONS_MAX: Final = 64
# The taint of a cordoned node, which may not have been added yet.
CORDONED: Final = "node.kubernetes.io/unschedulable"
# Transient states of a node: Pods are scheduled there again later, and should find their images.
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
# The values that Gt and Lt compare (k8s.io/apimachinery/pkg/api/validate/content.IsDecimalInteger).
_DECIMAL: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")

TolerationOperator: TypeAlias = Literal["Equal", "Exists", "Gt", "Lt"]


@dataclass(frozen=True, slots=True, order=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"
    """`NoSchedule`, `NoExecute`, or `PreferNoSchedule`, which excludes no Pod."""


@dataclass(frozen=True, slots=True, order=True)
class Toleration:
    """A toleration of a Pod."""

    key: str = ""
    """Empty: any key."""
    operator: TolerationOperator = "Equal"
    value: str = ""
    """Empty for Exists; for Gt and Lt an integer: the value of the taint must be greater or less."""
    effect: str = ""
    """Empty: any effect."""

    def tolerates(self, taint: Taint) -> bool:
        """Whether the toleration matches this taint."""
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


def tolerates(taints: Iterable[Taint], unschedulable: bool, tolerations: Iterable[Toleration]) -> bool:
    """Whether Pods with these tolerations can be scheduled on a node with these taints, transient taints aside."""
    return not untolerated(taints, unschedulable, tolerations)


def untolerated(taints: Iterable[Taint], unschedulable: bool, tolerations: Iterable[Toleration]) -> list[Taint]:
    """The taints that keep Pods with these tolerations off the node; a cordoned node has one more."""
    lasting = blocking_taints(taints, unschedulable)
    if not lasting:
        return []
    tolerations = tuple(tolerations)
    return [taint for taint in lasting if not any(toleration.tolerates(taint) for toleration in tolerations)]


def blocking_taints(taints: Iterable[Taint], unschedulable: bool) -> list[Taint]:
    """The taints that a Pod must tolerate; transient taints are left out."""
    lasting = [taint for taint in taints if taint.effect in {"NoSchedule", "NoExecute"} and not _passes(taint.key)]
    return [*lasting, Taint(CORDONED)] if unschedulable else lasting


def _passes(key: str) -> bool:
    return key in _PASSING or key.endswith(_STARTUP_NAME) or key.startswith(_STARTUP_PREFIXES)


def parse_tolerations(obj: object) -> tuple[Toleration, ...]:
    """Read the tolerations of a Pod in canonical order; an invalid one tolerates nothing.

    Tolerations of transient taints, which every Pod gets, are left out. Raises `TooManyTerms`.
    """
    found = set()
    for item in obj if isinstance(obj, list | tuple) else ():
        toleration = _toleration(item)
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


def toleration_object(toleration: Toleration) -> dict[str, str]:
    """The `v1.Toleration`."""
    fields = {"key": toleration.key, "operator": toleration.operator, "value": toleration.value}
    return {name: text for name, text in (fields | {"effect": toleration.effect}).items() if text}
