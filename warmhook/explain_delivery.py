"""Explain whether the registry's delivery of an image arrived and was taken."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from warmhook.checks import Check, command
from warmhook.delivery_records import DeliveryRecord, deliveries_of
from warmhook.explain_facts import Facts, Unread, at, clean, push_again
from warmhook.images import NotAReference, parse_reference
from warmhook.reasons import meaning
from warmhook.warmimages import WarmImage

OF_POLICIES: Final = frozenset({"no-policy", "superseded", "expired", "duplicate", "refused"})
"""Reasons to skip a delivery that are explained by the policies, not by the sender."""
_HARMLESS: Final = OF_POLICIES | {"early-blob", "handshake", "ping", "not-a-push"}
_SOURCES_SHOWN: Final = 5


def delivery_of(facts: Facts, warmimage: WarmImage) -> Check:
    """The delivery that a WarmImage comes from, if it comes from one."""
    if (other := _other_origin(warmimage)) or warmimage.pushed_at is None:
        return Check("delivery", "skipped", f"none is needed: {other}")
    newest = next(iter(_named(facts)), None)
    if newest is not None and newest.at > warmimage.pushed_at and (problem := _problem(facts, newest)):
        return problem
    if newest is not None and newest.result == "accepted":
        return _accepted(facts, newest)
    return Check("delivery", "ok", f"the push of {at(warmimage.pushed_at, facts.now)} was accepted")


def _other_origin(warmimage: WarmImage) -> str:
    """What brought the image if no delivery did."""
    if (origin := warmimage.pod_origin) is not None:
        owners = ", ".join(owner.owner for owner in origin.owners[:3]) or "Pods that exist"
        how = {"Admission": "new Pods of", "Existing": "Pods of", "Rollout": "the rollout of"}[origin.source]
        return f"{how} {clean(owners)} brought the image"
    if not warmimage.policy_label:
        return "somebody made the WarmImage by hand"
    return "" if warmimage.pushed_at is not None else f"policy {warmimage.policy_name} names the image"


def missing_delivery(facts: Facts, *, wanted: bool) -> Check:
    """The delivery of an image without a WarmImage; `wanted`: a policy takes pushes of it."""
    if isinstance(facts.deliveries, Unread):
        message = f"the last deliveries could not be read: {facts.deliveries.problem}"
        return Check("delivery", "unknown", message, facts.deliveries.mend, "NotRead")
    newest = next(iter(_named(facts)), None)
    if newest is not None:
        return _problem(facts, newest) or _accepted(facts, newest)
    for record in _newest_of_sources(facts.deliveries, facts.image.canonical.host):
        if record.result in {"unauthorized", "unavailable", "refused"} and (problem := _problem(facts, record)):
            return problem
    if not wanted:
        return Check("delivery", "skipped", "none that names the image is on record")
    push = push_again(facts)
    return Check("delivery", "wrong", _silence(facts, facts.deliveries), push, "NoDelivery")


def accepted_record(facts: Facts) -> DeliveryRecord | None:
    """The newest delivery that named the image and was read; `None` if there is none on record."""
    return next((one for one in _named(facts) if one.result == "accepted" or one.reason in OF_POLICIES), None)


def _named(facts: Facts) -> tuple[DeliveryRecord, ...]:
    """The deliveries that named the image, newest first; none if they could not be read."""
    return () if isinstance(facts.deliveries, Unread) else deliveries_of(str(facts.image), "", facts.deliveries)


def _accepted(facts: Facts, record: DeliveryRecord) -> Check:
    how = "was accepted" if record.result == "accepted" else f"was read, and skipped as {clean(record.reason)}"
    return Check("delivery", "ok", f"the delivery of source {record.source} of {at(record.at, facts.now)} {how}")


def _newest_of_sources(records: Sequence[DeliveryRecord], host: str) -> Iterable[DeliveryRecord]:
    """The newest delivery of each source that may be the one of the image's registry.

    A delivery whose secret is wrong is not read, so it names no image. If a source is known to deliver images of the
    same host, only such sources count.
    """
    newest: dict[str, DeliveryRecord] = {}
    of_host: set[str] = set()
    for record in records:
        newest.setdefault(record.source, record)
        if any(_host(text) == host for text in record.images):
            of_host.add(record.source)
    return [record for source, record in newest.items() if not of_host or source in of_host]


def _host(text: str) -> str:
    try:
        return parse_reference(text).canonical.host
    except NotAReference:
        return ""


def _silence(facts: Facts, records: Sequence[DeliveryRecord]) -> str:
    """That nothing arrived, with what did arrive."""
    image = facts.image
    if not records:
        return f"no delivery of any registry is on record, so none of {image.host} reached /webhooks/ of web"
    sources = list(dict.fromkeys(record.source for record in records))
    shown = ", ".join(sources[:_SOURCES_SHOWN]) + (", ..." if len(sources) > _SOURCES_SHOWN else "")
    message = f"no delivery on record names {image}; the last one, of source {records[0].source}, is of"
    message += f" {at(records[0].at, facts.now)}; the webhook's URL must end in /webhooks/ and one of: {shown}"
    return message


def _problem(facts: Facts, record: DeliveryRecord) -> Check | None:
    """What was wrong with the delivery; `None` if nothing was."""
    if record.result == "accepted" or (record.result == "skipped" and record.reason in _HARMLESS):
        return None
    reason = "".join(part.capitalize() for part in record.reason.split("-")) or record.result.capitalize()
    message = f"the delivery of source {record.source} of {at(record.at, facts.now)} was {record.result}"
    message += f": {_why(record.reason)}"
    if record.detail:
        message += f" ({clean(record.detail)})"
    return Check("delivery", "wrong", message, _mend(facts, record), reason)


def _why(reason: str) -> str:
    """What the reason means, without what helps; a reason that is not known is foreign text."""
    known = meaning(reason).partition(". ")[0].rstrip(".")
    return f"{known[0].lower()}{known[1:]}" if known else clean(reason).replace("-", " ")


def _mend(facts: Facts, record: DeliveryRecord) -> str:
    """The command that mends it, or the change to make before a command."""
    kubectl = ("kubectl", "-n", facts.system_namespace)
    secret = json.dumps({"stringData": {record.source: "<what the registry sends>"}})
    apply = "kubectl apply --server-side -k ."
    source, host = f"source {clean(record.source)} in config.yaml", facts.image.canonical.host
    describe = command(*kubectl, "describe", "secret", "warmhook-senders")
    logs = command(*kubectl, "logs", "-l", "app.kubernetes.io/name=warmhook-web", "--tail=-1")
    mends = {
        "bad-secret": command(*kubectl, "patch", "secret", "warmhook-senders", "--type", "merge", "-p", secret),
        "host-not-allowed": f"add {host} to allowedHosts of {source}, then: {apply}",
        "no-registry-host": f"set registryHost of {source}, then: {apply}",
        "secret-unreadable": describe,
        "keys-unreachable": describe,
        "api-server-403": apply,
        "api-server-404": apply,
    }
    return mends.get(record.reason, "kubectl get --raw /readyz" if record.result == "unavailable" else logs)
