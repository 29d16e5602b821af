"""Read the notifications of CNCF Distribution, a format that several registries send.

https://distribution.github.io/distribution/about/notifications/; distribution/distribution `notifications/event.go`.
"""

from __future__ import annotations

from typing import Final

from adapters.registries.common.bodies import Fields, Text, each, quoted, read_fields, read_json, read_time
from adapters.registries.common.delivery import Delivery, Outcome, Source
from adapters.registries.common.images import LooseReference, blob_pushed, is_manifest, pushed
from warmhook.events import Skip
from warmhook.ports import Json

_OTHER_ACTIONS: Final = frozenset({"pull", "mount", "delete"})
# A mount is a push of a blob that the registry had in another repository; nothing is sent.
_BLOB_ACTIONS: Final = frozenset({"push", "mount"})


class _Envelope(Fields):
    events: list[Json]


class _Target(Fields):
    mediaType: Text = ""  # noqa: N815 - the sender's name
    digest: Text = ""
    size: Json = None
    repository: Text = ""
    tag: Text = ""


class _Request(Fields):
    host: Text = ""


class _Event(Fields):
    id: Text = ""
    timestamp: Json = None
    action: str
    target: _Target = _Target()
    request: _Request | None = None


def read_envelope(delivery: Delivery, source: Source) -> list[Outcome]:
    """Every event of a body `{"events": [...]}`. Raises `Unreadable` if there is no such list."""
    events = read_fields(_Envelope, read_json(delivery.body)).events
    return each(events, lambda event: read_event(event, source)) or [Skip("unknown-event", "no events")]


def read_event(body: Json, source: Source) -> Outcome:
    """One event. Layers are events too; the media type distinguishes them from manifests. Raises `Unreadable`."""
    event = read_fields(_Event, body)
    host = event.request.host if event.request else ""
    target = event.target
    if source.early_blobs and _is_blob(event) and isinstance(target.size, int):
        blob = LooseReference(host, target.repository, digest=target.digest)
        return blob_pushed(source, blob, target.size, read_time(event.timestamp))
    if event.action != "push":
        known = event.action in _OTHER_ACTIONS
        return Skip("not-a-push" if known else "unknown-event", f"action {quoted(event.action)}")
    if not is_manifest(target.mediaType):
        # A layer is a part of a push. An artifact manifest or Docker's schema 1 is a push that no container can run.
        layer = "manifest" not in target.mediaType
        return Skip("not-a-push" if layer else "not-runnable", f"media type {quoted(target.mediaType)}")
    image = LooseReference(host, target.repository, target.tag, target.digest)
    return pushed(source, image, pushed_at=read_time(event.timestamp), delivery_id=event.id)


def _is_blob(event: _Event) -> bool:
    """Whether a layer or a configuration is in the repository since this event. Its media type says neither."""
    return event.action in _BLOB_ACTIONS and "manifest" not in event.target.mediaType
