"""Write a template as the fields of a spec that `adapters/kubernetes/template.py` reads to the same value."""

from __future__ import annotations

from typing import Any

from warmhook.labels import Selector, requirement_object
from warmhook.node_affinity import affinity_object
from warmhook.taints import toleration_object
from warmhook.warmimages import Limit, Source, Template


def template_object(template: Template) -> dict[str, Any]:
    """The spec fields that `TemplateSpec` reads to the same value, absent ones as `None`."""
    nodes, limit = template.nodes, template.nodes.limit
    return {
        "nodes": {
            "selector": _selector_object(nodes.selector),
            "names": list(nodes.names) or None,
            "limit": limit and _limit_object(limit),
            "affinity": None if nodes.affinity is None else affinity_object(nodes.affinity),
            "tolerations": None if nodes.tolerations is None else list(map(toleration_object, nodes.tolerations)),
            "runningPods": _selector_object(nodes.running_pods),
        },
        "pull": _pull_object(template),
        "lifetime": {
            "type": "Keep" if template.once is None else "Once",
            "expireAfterSeconds": template.expire_after_seconds,
            "deadlineSeconds": template.once and template.once.deadline_seconds,
            "ttlSecondsAfterFinished": template.once and template.once.ttl_seconds_after_finished,
        },
        "source": _source_object(template.source),
        "onRemoval": None if template.on_removal == "Retain" else template.on_removal,
    }


def _source_object(source: Source) -> dict[str, Any] | None:
    if source == Source():
        return None
    return {
        "mode": source.mode,
        "seeds": _limit_object(source.seeds),
        "seedNodes": _selector_object(source.seed_nodes),
    }


def _limit_object(limit: Limit) -> int | str:
    return f"{limit.value}%" if limit.percent else limit.value


def _selector_object(selector: Selector | None) -> dict[str, Any] | None:
    if selector is None:
        return None
    return {"matchExpressions": list(map(requirement_object, selector.requirements)), "matchLabels": None}


def _pull_object(template: Template) -> dict[str, Any]:
    pull, refresh = template.pull, template.refresh
    windows = [
        {"schedule": each.schedule, "durationSeconds": each.duration_seconds, "timeZone": each.time_zone}
        for each in refresh.windows
    ]
    return {
        "policy": pull.policy,
        "timeoutSeconds": pull.timeout_seconds,
        "backoffLimit": pull.backoff_limit,
        "priority": pull.priority,
        "pinned": pull.pinned or None,
        "secrets": list(pull.secrets) or None,
        "sharePrivate": bool(pull.secrets) or None,
        "refreshIntervalSeconds": refresh.interval_seconds,
        "refreshWindows": windows or None,
    }
