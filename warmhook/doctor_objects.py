"""Check what users and registries give Warmhook: deliveries, policies, images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from warmhook.checks import Check, CheckState, named
from warmhook.delivery_records import DeliveryRecord
from warmhook.durations import format_duration
from warmhook.node_report import clean_message
from warmhook.ports import Object
from warmhook.status import find_condition

_SOURCES_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of an object that is not as it should be."""

    name: str
    """Namespace and name of the object."""
    type: str
    reason: str
    message: str


def delivery_checks(
    records: Sequence[DeliveryRecord], sources: Sequence[str] | None, now: datetime, namespace: str
) -> list[Check]:
    """The last deliveries of each source, recorded in the `namespace` of Warmhook.

    `sources` are those that are configured; `None` if that is not known.
    """
    by_source: defaultdict[str, list[DeliveryRecord]] = defaultdict(list)
    for record in records:
        by_source[record.source].append(record)
    if sources is not None and not sources:
        mend = "name your registries in the section sources: docs/install.md"
        return [Check("deliveries", "waiting", "no source is configured, so no webhook is accepted", mend, "NoSource")]
    names = sorted(by_source if sources is None else set(sources))
    found = _bounded([_source(name, by_source[name], now) for name in names], namespace)
    if sources is not None and (unknown := sorted(by_source.keys() - set(sources))):
        message = f"deliveries to {named(unknown)}, which is not configured"
        found.append(Check("deliveries", "waiting", message, "correct the URL at the sender", "UnknownSource"))
    return found or [Check("deliveries", "waiting", "no delivery is recorded yet", "docs/senders.md", "NoDelivery")]


def _bounded(checks: list[Check], namespace: str) -> list[Check]:
    """All of them if they are few; else those that are not in order, and how many more there are."""
    if len(checks) <= _SOURCES_MAX:
        return checks
    bad = [check for check in checks if check.state != "ok"]
    shown = bad[:_SOURCES_MAX]
    message = f"{len(checks) - len(bad)} further sources are in order"
    if left_out := len(bad) - len(shown):
        message += f", and {left_out} are not"
    state: CheckState = "wrong" if any(check.state == "wrong" for check in bad[_SOURCES_MAX:]) else "ok"
    mend = f"kubectl -n {namespace} get configmap warmhook-deliveries -o yaml" if left_out else ""
    return [*shown, Check("deliveries", state, message, mend, "MoreSources" if left_out else "")]


def _source(name: str, records: Sequence[DeliveryRecord], now: datetime) -> Check:
    subject = "deliveries"
    if not records:
        mend = "send a test from the registry, and check that its URL ends in /webhooks/" + name
        return Check(subject, "waiting", f"{name}: none is recorded", mend, "NoDelivery")
    last = max(records, key=lambda record: record.at)
    accepted = [record for record in records if record.result in ("accepted", "skipped")]
    when = f"the last one {format_duration((now - last.at).total_seconds())} ago"
    if not accepted:
        why = clean_message(last.reason or last.result)
        message = f"{name}: all {len(records)} recorded ones were refused, {when}: {why}"
        mend = "docs/senders.md has what each reason means"
        if last.result == "unauthorized":
            mend = f"compare the secret at the sender with the one of the source {name}: docs/senders.md"
        return Check(subject, "wrong", message, mend, "OnlyRefused")
    if last.result not in ("accepted", "skipped"):
        message = f"{name}: {when} was {clean_message(last.result)}: {clean_message(last.reason or last.detail)}"
        return Check(subject, "waiting", message, "docs/senders.md has what each reason means", "LastRefused")
    return Check(subject, "ok", f"{name}: {when} was {clean_message(last.result)}")


def policies_check(policies: Iterable[Object]) -> Check:
    """WarmPolicies whose conditions say that a part of them does not work."""
    wanted = {"Ready": "True", "Degraded": "False", "Observed": "True"}
    return _conditions("policies", "WarmPolicies", policies, wanted, "warmpolicies")


def images_check(warmimages: Iterable[Object]) -> Check:
    """WarmImages that nodes cannot have, or that ask for more than they may."""
    return _conditions("images", "WarmImages", warmimages, _OF_IMAGES, "warmimages")


_OF_IMAGES: Final = {"Allowed": "True", "Degraded": "False", "Ready": "True"}
_INTENDED: Final = frozenset({"Suspended", "Purged"})
_UNDER_WAY: Final = frozenset({"NotAllWarm", "NodesUnreachable", "NoNodes"})


def _conditions(subject: str, title: str, objects: Iterable[Object], wanted: Mapping[str, str], plural: str) -> Check:
    count, bad, waiting = 0, list[Condition](), 0
    for obj in objects:
        count += 1
        found = _bad_condition(obj, wanted)
        if found is None or found.reason in _INTENDED:
            continue
        if found.reason in _UNDER_WAY:
            waiting += 1
        else:
            bad.append(found)
    if bad:
        first = min(bad, key=lambda each: each.name)
        what = clean_message(f"{first.type} is not as it should be: {first.reason}: {first.message}")
        message = f"{len(bad)} of {count} {title} have a problem, such as {first.name}: {what}"
        namespace, _, name = first.name.partition("/")
        return Check(subject, "wrong", message, f"kubectl -n {namespace} describe {plural} {name}", first.reason)
    if waiting:
        return Check(subject, "waiting", f"{waiting} of {count} {title} are under way", "warmhook status", "UnderWay")
    return Check(subject, "ok", f"no condition of {count} {title} names a problem")


def _bad_condition(obj: Object, wanted: Mapping[str, str]) -> Condition | None:
    status: Mapping[str, Any] = obj.get("status") or {}
    for kind, good in wanted.items():
        condition = find_condition(status, kind)
        if condition and condition.get("status") not in (good, None):
            metadata = obj["metadata"]
            name = f"{metadata.get('namespace')}/{metadata['name']}"
            return Condition(name, kind, str(condition.get("reason", "")), str(condition.get("message", "")))
    return None
