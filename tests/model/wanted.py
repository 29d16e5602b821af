"""Compute what a WarmImage asks of nodes, within the limits of its namespace."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from tests.model.history import LIMITS, Image, Limits, Where
from tests.model.model import Fact, ModelNode, chosen_nodes
from warmhook.ports import Object

__all__ = ["Wanted", "condition", "fact_of", "key_of", "limits_of", "line_text", "wanted_of", "where_of"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A WarmImage as its nodes should see it."""

    key: str
    fact: Fact
    nodes: frozenset[str]
    """The nodes that should have it; those of a complete one have no line any more."""
    text: str
    """Its line."""
    delete: bool
    suspended: bool
    purged: bool
    once: bool
    complete: bool
    pinned: bool
    resolved: bool
    """Whether the registry said what the tag points at; then the digest of the fact is what it said."""
    refreshed: datetime | None
    """When nodes or the registry last resolved the tag again."""
    allowed: bool
    """Whether its namespace may have all that it asks for."""

    @property
    def idle(self) -> bool:
        return self.suspended or self.purged

    @property
    def lines(self) -> frozenset[str]:
        """The nodes with its line."""
        return frozenset() if self.complete else self.nodes


def wanted_of(obj: Object, nodes: Iterable[ModelNode], pods: Mapping[str, set[str]]) -> Wanted:
    """`pods` are the nodes by the label `app` of the Pods that they run in the namespace of the WarmImage."""
    spec, status, key = obj["spec"], obj.get("status") or {}, key_of(obj)
    pull, limits, fact = spec["pull"], limits_of(obj["metadata"]["namespace"]), fact_of(obj)
    asked = {
        "Delete": spec.get("onRemoval") == "Delete",
        "Pinned": bool(pull.get("pinned")),
        "purge": _purged(obj["metadata"].get("annotations") or {}),
    }
    delete, pinned, purged = (asked[it] and _permits(limits, it) for it in ("Delete", "Pinned", "purge"))
    takes = fact[0].repository.startswith(limits.repositories)
    once = spec["lifetime"].get("type") == "Once"
    ended = condition(status, "Complete")
    complete = (
        once
        and not purged
        and (ended.get("status"), ended.get("observedGeneration"))
        == (
            "True",
            obj["metadata"]["generation"],
        )
    )
    resolved = _resolved(status, spec, fact)
    fact = (fact[0], resolved.get("digest", fact[1]), fact[2])
    by_nodes = status.get("refreshedBy") == "Nodes"
    options = {
        "P": pull["policy"] if pull["policy"] != "IfNotPresent" else None,
        "r": min(pull["priority"], limits.priority),
        "k": pinned,
        "o": "Delete" if delete else None,
        "z": bool(spec.get("suspend")),
        "x": purged,
        "s": resolved.get("sizeBytes"),
        "f": status.get("refreshedAt") if by_nodes else None,
    }
    where = where_of(spec["nodes"])
    here = [node for node in nodes if not where.running or node.name in pods.get(where.running, set())]
    here = [node for node in here if not limits.pool or node.labels.get("pool") == limits.pool]
    return Wanted(
        key,
        fact,
        frozenset(chosen_nodes(str(fact[0]), where, here)) if takes else frozenset(),
        line_text(key, fact, options),
        delete,
        bool(spec.get("suspend")),
        purged,
        once,
        complete,
        pinned,
        bool(resolved),
        datetime.fromisoformat(status["refreshedAt"]) if status.get("refreshedAt") else None,
        takes
        and pull["priority"] <= limits.priority
        and asked == {"Delete": delete, "Pinned": pinned, "purge": purged},
    )


def _resolved(status: Object, spec: Object, fact: Fact) -> Object:
    """What the registry said about this image and this push; empty if it did not say, or was not asked."""
    given: Object = status.get("resolved") or {}
    separator = "" if not fact[1] or ":" in fact[0].tag else f"@{fact[1]}"
    asked = (f"{fact[0]}{separator}", spec.get("pushedAt"))
    return given if given.get("digest") and (given["image"], given.get("pushedAt")) == asked else {}


def _permits(limits: Limits, option: str) -> bool:
    return ("Delete" if option == "purge" else option) in limits.allow


def _purged(annotations: Mapping[str, str]) -> bool:
    names = ("warmhook.dev/purge", "warmhook.dev/policy-purge")
    return any(annotations.get(name, "false").lower() != "false" for name in names)


def limits_of(namespace: str) -> Limits:
    return LIMITS.get(namespace, LIMITS["**"])


def line_text(key: str, fact: Fact, options: Mapping[str, object]) -> str:
    """The line of a WarmImage, `namespace/name`; options that are empty are left out."""
    image, digest, moment = fact
    fields: dict[str, object] = {"i": str(image), "w": key, **{name: it for name, it in options.items() if it}}
    if digest:
        fields["d"] = digest
    elif moment is not None:
        fields["p"] = moment.isoformat().replace("+00:00", "Z")
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def condition(status: Object, kind: str) -> Object:
    """Empty if there is none."""
    found: Object = next((it for it in status.get("conditions") or [] if it["type"] == kind), {})
    return found


def fact_of(obj: Object) -> Fact:
    spec = obj["spec"]
    separator = "@" if "@" in spec["image"] else ":"
    repository, _, tag = spec["image"].partition("@") if separator == "@" else spec["image"].rpartition(":")
    moment = datetime.fromisoformat(spec["pushedAt"]) if spec.get("pushedAt") else None
    return Image(repository, tag), spec.get("digest", ""), moment


def where_of(nodes: Object) -> Where:
    pool, app = _value(nodes.get("selector"), "pool"), _value(nodes.get("runningPods"), "app")
    return Where(pool, tuple(nodes.get("names") or ()), nodes.get("limit"), app)


def _value(selector: Object | None, label: str) -> str:
    """The one value that a selector wants of a label; empty if there is no selector."""
    expressions = (selector or {}).get("matchExpressions") or []
    labels = (selector or {}).get("matchLabels") or {}
    return labels.get(label) or next((it["values"][0] for it in expressions if it["key"] == label), "")


def key_of(obj: Object) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
