"""Encode and decode the CloudEvents that handlers act on, and identify pushes.

An event that is delivered again has the same id, which distinguishes a repeat from a second push.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeGuard, get_args

from warmhook.admission_review import Admitted
from warmhook.images import Reference, is_digest, parse_reference
from warmhook.node_affinity import affinity_object, parse_affinity
from warmhook.ports import Object
from warmhook.taints import parse_tolerations, toleration_object
from warmhook.timestamps import format_time, parse_time

SkipReason = Literal[
    "not-a-push",
    "not-runnable",
    "not-a-container",
    "ping",
    "handshake",
    "no-registry-host",
    "no-tag-no-digest",
    "pull-through-cache",
    "proxy-cache",
    "remote-cache",
    "replication-echo",
    "malformed",
    "unknown-event",
    "host-not-allowed",
    "no-policy",
    "superseded",
    "expired",
    "duplicate",
    "refused",
    "early-blob",
]
SKIP_REASONS: Final[tuple[SkipReason, ...]] = get_args(SkipReason)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pushed:
    """A push of a new image, as the webhook of the registry reports it."""

    image: Reference
    pushed_at: datetime | None = None
    """The sender's event time (aware); `None`, or 1970 and before (a Go or Unix zero), if the sender gives none."""
    delivery_id: str = ""
    """The sender's id of this event, the same when it is delivered again; empty if there is none."""


@dataclass(frozen=True, slots=True)
class BlobPushed:
    """A blob that a registry has, before the manifest that will name it."""

    blob: Reference
    """Canonical, by digest."""
    size_bytes: int
    pushed_at: datetime | None = None
    """The sender's event time (aware); `None` if it gives none."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A delivery, or one part of it, that needs no work."""

    reason: SkipReason
    detail: str = ""
    """The unexpected value, for the log; never a secret and never the body."""


def pushed_id(source: str, pushed: Pushed, received: datetime) -> str:
    """The CloudEvent id of a push: 32 hex digits, equal for every delivery of one event by one source.

    If a sender gives neither time, delivery id nor digest, the time of receipt replaces them, so every delivery is a
    separate push: a repeat costs one manifest request per node, a push that is treated as a repeat costs the image.
    """
    pushed_at = _given(pushed.pushed_at)
    identity = pushed.delivery_id or (pushed_at.isoformat() if pushed_at else "")
    if not identity and not pushed.image.digest:
        identity = received.astimezone(UTC).isoformat()
    return _digest(source, str(pushed.image.without_digest()), pushed.image.digest, identity)


def push_time(pushed_at: datetime | None, received: datetime) -> datetime:
    """The time of the push in UTC: the sender's time or the receipt, whichever is earlier.

    A sender's clock that runs ahead, by however little, would win against every push until ours has caught up.
    """
    given = _given(pushed_at)
    return received.astimezone(UTC) if given is None else min(given, received.astimezone(UTC))


def is_timed(pushed: Pushed) -> bool:
    """Whether the sender gave a time."""
    return _given(pushed.pushed_at) is not None


def _given(pushed_at: datetime | None) -> datetime | None:
    """The sender's time in UTC; `None` if there is none, or a zero."""
    if pushed_at is None or pushed_at <= _EPOCH:
        return None
    try:
        return pushed_at.astimezone(UTC)
    except OverflowError:  # the last hours of the year 9999
        return datetime.max.replace(tzinfo=UTC)


# --- CloudEvents -----------------------------------------------------------------------------------------------------

PUSHED: Final = "dev.warmhook.image.pushed.v1"
ADMITTED: Final = "dev.warmhook.pod.admitted.v1"
CHANGED: Final = "dev.warmhook.objects.changed.v1"
REPORTED: Final = "dev.warmhook.report.changed.v1"
SYNC: Final = "dev.warmhook.sync.v1"
# The event of Knative's PingSource; read as a sync.
PING: Final = "dev.knative.sources.ping"


class NotAnEvent(ValueError):
    """The event cannot be handled, now or later; the message says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvent with the attributes Warmhook uses."""

    type: str
    source: str
    id: str
    time: datetime
    subject: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changed:
    """A changed WarmPolicy, WarmImage or Node."""

    kind: Literal["WarmPolicy", "WarmImage", "Node"]
    namespace: str
    """Empty for a Node."""
    name: str
    deleted: bool = False
    resource_version: str = ""
    uid: str = ""
    object: Object | None = field(default=None, compare=False)
    """The object as it was seen, or a part of it. A hint: only a read returns the current object."""


def pushed_event(source: str, pushed: Pushed, received: datetime) -> Event:
    """The CloudEvent of a push that the configured source `source` reported."""
    image = pushed.image.without_digest()
    data = {"image": str(image), "source": source}
    if pushed.image.digest:
        data["digest"] = pushed.image.digest
    if pushed.pushed_at:
        data["pushedAt"] = format_time(pushed.pushed_at)
    if pushed.delivery_id:
        data["deliveryId"] = pushed.delivery_id
    tagged = pushed.image.name + (f":{pushed.image.tag}" if pushed.image.tag else "")
    return Event(PUSHED, f"/webhooks/{source}", pushed_id(source, pushed, received), received, tagged, data)


def read_pushed(event: Event) -> tuple[str, Pushed]:
    """The configured source and the push in an event. Raises `NotAnEvent`."""
    data = event.data
    try:
        image = parse_reference(data["image"]).canonical
        digest = data.get("digest", "")
        if digest and not is_digest(digest):
            raise NotAnEvent(f"data.digest {digest!r} is no sha256 or sha512 digest")
        moment = parse_time(data["pushedAt"]) if data.get("pushedAt") else None
        source, delivery_id = data["source"], data.get("deliveryId", "")
        if not isinstance(source, str) or not isinstance(delivery_id, str):
            raise NotAnEvent("data.source and data.deliveryId must be strings")
    except KeyError as error:
        raise NotAnEvent(f"data has no {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise NotAnEvent(f"data: {error}") from error
    image = replace(image, digest=digest or image.digest)
    if not image.tag and not image.digest:
        raise NotAnEvent("data.image has neither tag nor digest")
    return source, Pushed(image, moment, delivery_id)


def admitted_event(admitted: Admitted, now: datetime) -> Event:
    """The CloudEvent of a new Pod."""
    data: dict[str, Any] = {
        "namespace": admitted.namespace,
        "owner": admitted.owner,
        "labels": dict(admitted.labels),
        "images": [str(image) for image in admitted.images],
        "containers": {name: str(image) for name, image in admitted.containers},
        "nodeSelector": dict(admitted.node_selector),
        "tolerations": [toleration_object(it) for it in admitted.tolerations],
        "pullSecrets": list(admitted.pull_secrets),
    }
    if admitted.affinity is not None:
        data["affinity"] = affinity_object(admitted.affinity)
    identity = _digest(admitted.namespace, admitted.owner_uid or admitted.owner, *data["images"])
    return Event(ADMITTED, "/admission/pods", identity, now, f"{admitted.namespace}/{admitted.owner}", data)


def read_admitted(event: Event) -> Admitted:
    """The Pod in an event. Raises `NotAnEvent`."""
    data = event.data
    namespace, owner = data.get("namespace"), data.get("owner")
    if not (_is_name(namespace) and isinstance(owner, str) and owner):
        raise NotAnEvent("data.namespace must be a name and data.owner a string")
    affinity = data.get("affinity")
    try:
        return Admitted(
            namespace=namespace,
            owner=owner,
            images=tuple(parse_reference(text, default_tag="latest") for text in _strings(data, "images")),
            containers=tuple(
                (name, parse_reference(text, default_tag="latest"))
                for name, text in _string_map(data, "containers").items()
            ),
            labels=_string_map(data, "labels"),
            node_selector=_string_map(data, "nodeSelector"),
            affinity=None if affinity is None else parse_affinity(affinity),
            tolerations=parse_tolerations(data.get("tolerations")),
            pull_secrets=tuple(_strings(data, "pullSecrets")),
        )
    except ValueError as error:  # NotAReference, NotASelector, TooManyTerms
        raise NotAnEvent(f"data: {error}") from error


def _strings(data: Mapping[str, Any], name: str) -> list[str]:
    listed = data.get(name) or []
    if not isinstance(listed, list) or not all(isinstance(it, str) for it in listed):
        raise NotAnEvent(f"data.{name} must be a list of strings")
    return listed


def _string_map(data: Mapping[str, Any], name: str) -> dict[str, str]:
    found = data.get(name) or {}
    if not isinstance(found, dict) or not all(isinstance(it, str) for part in found.items() for it in part):
        raise NotAnEvent(f"data.{name} must be a map of strings")
    return found


# RFC 1123 subdomains; `fullmatch` of an element that begins and ends with a letter or digit cannot be `..`.
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_KINDS: Final = ("WarmPolicy", "WarmImage", "Node")
_VERSION_MAX: Final = 64


CHANGES_MAX: Final = 500
"""Objects or WarmImages that one event may name: with the longest names about 250 KB, and `/events` accepts 1 MiB."""
_OBJECTS_MAX_BYTES: Final = 128 * 1024
"""For all objects that one event carries: with the names less than half of what `/events` accepts."""


def changed_event(changes: Iterable[Changed], now: datetime) -> Event:
    """The CloudEvent that names the objects whose changes a watch saw, at most `CHANGES_MAX`.

    Objects come along in `data.objects[].object` as long as all of them take at most 128 KiB. The event's id is
    that of the changes in any order. A change without a resourceVersion is identified by the time as well, because it
    may happen again.
    """
    listed = sorted(changes, key=_change_identity)
    identity = [part for change in listed for part in _change_identity(change)]
    if not all(change.resource_version for change in listed):
        identity.append(now.isoformat())
    objects, size = [], 0
    for change in listed:
        named = _change_object(change)
        if change.object is not None:
            size += len(json.dumps(change.object))
            named |= {"object": change.object} if size <= _OBJECTS_MAX_BYTES else {}
        objects.append(named)
    return Event(CHANGED, "/watch", _digest(*identity), now, data={"objects": objects})


def _change_identity(change: Changed) -> tuple[str, ...]:
    deleted = "deleted" if change.deleted else ""
    return (change.kind, change.namespace, change.name, change.uid, change.resource_version, deleted)


def _change_object(change: Changed) -> dict[str, Any]:
    return {
        "apiVersion": "v1" if change.kind == "Node" else "warmhook.dev/v1alpha1",
        "kind": change.kind,
        "namespace": change.namespace,
        "name": change.name,
        "deleted": change.deleted,
        "resourceVersion": change.resource_version,
    }


def read_changed(event: Event) -> list[Any]:
    """The objects that an event names, each for `read_change`. Raises `NotAnEvent`."""
    objects = event.data.get("objects")
    if not isinstance(objects, list) or not 1 <= len(objects) <= CHANGES_MAX:
        raise NotAnEvent(f"data.objects must be a list of 1 to {CHANGES_MAX} objects")
    return objects


def read_change(named: object) -> Changed:
    """The change of one object that an event names. Raises `NotAnEvent`."""
    if not isinstance(named, dict):
        raise NotAnEvent("each of data.objects must be a JSON object")
    kind, namespace, name = named.get("kind"), named.get("namespace", ""), named.get("name")
    version = named.get("resourceVersion", "")
    # A tuple, because a foreign value may not be hashable.
    if kind not in _KINDS or not _is_name(name) or not (namespace == "" or _is_name(namespace)):
        raise NotAnEvent("data.objects must name kind (WarmPolicy, WarmImage or Node), namespace and name of objects")
    if not isinstance(version, str) or len(version) > _VERSION_MAX or (kind != "Node" and not namespace):
        raise NotAnEvent("resourceVersion of an object must be a short string, its namespace must not be empty")
    seen = named.get("object")
    if seen is not None and not isinstance(seen, dict):
        raise NotAnEvent("object of an object must be a JSON object")
    return Changed(kind, namespace, name, named.get("deleted") is True, version, object=seen)


def reported_event(warmimages: Iterable[str], now: datetime) -> Event:
    """The CloudEvent that names the WarmImages (`namespace/name`) with new reports."""
    names = sorted(warmimages)
    second = now.replace(microsecond=0).isoformat()
    return Event(REPORTED, "/watch", _digest(*names, second), now, data={"warmimages": names})


def read_reported(event: Event) -> list[str]:
    """`namespace/name` of the WarmImages in an event. Raises `NotAnEvent`."""
    names = event.data.get("warmimages")
    if not isinstance(names, list) or len(names) > CHANGES_MAX:
        raise NotAnEvent(f"data.warmimages must be a list of at most {CHANGES_MAX} names")
    if not all(isinstance(it, str) and _is_key(it) for it in names):
        raise NotAnEvent("data.warmimages must be a list of namespace/name")
    return names


def sync_event(interval: int, now: datetime) -> Event:
    """The CloudEvent that requests a sync; `interval` is the number of this sync."""
    return Event(SYNC, "/watch", _digest("sync", str(interval)), now)


def _is_name(value: object) -> TypeGuard[str]:
    """Whether `value` is a valid object name. Names become parts of paths, and `..` would lead to another object."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_key(text: str) -> bool:
    namespace, slash, name = text.partition("/")
    return bool(slash) and _is_name(namespace) and _is_name(name)


def _digest(*parts: str) -> str:
    # JSON can carry half a surrogate pair, which plain UTF-8 refuses.
    return hashlib.sha256("\n".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]
