"""Read the events of CNCF Distribution's notifications, a format that several registries send.

https://distribution.github.io/distribution/about/notifications/; distribution/distribution `notifications/event.go`.
"""

from __future__ import annotations

from typing import Final

from adapters.registries import Outcome, Source
from adapters.registries.common.bodies import Fields, Text, each, quoted, read_fields, read_time
from adapters.registries.common.images import is_manifest, pushed
from warmhook.events import Skip
from warmhook.ports import Json

__all__ = ["read_envelope", "read_event"]

_OTHER_ACTIONS: Final = frozenset({"pull", "mount", "delete"})


class _Envelope(Fields):
    events: list[Json]


class _Target(Fields):
    mediaType: Text = ""  # noqa: N815 - the sender's name
    digest: Text = ""
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


def read_envelope(body: Json, source: Source) -> list[Outcome]:
    """Every event of `{"events": [...]}`, each by itself. Raises `Unreadable` where there is no such list."""
    events = read_fields(_Envelope, body).events
    return each(events, lambda event: [read_event(event, source)]) or [Skip("unknown-event", "no events")]


def read_event(body: Json, source: Source) -> Outcome:
    """One event. Layers are pushed like manifests and are told by their media type. Raises `Unreadable`."""
    event = read_fields(_Event, body)
    if event.action != "push":
        known = event.action in _OTHER_ACTIONS
        return Skip("not-a-push" if known else "unknown-event", f"action {quoted(event.action)}")
    target = event.target
    if not is_manifest(target.mediaType):
        # A layer is a part of a push; an artifact manifest or Docker's schema 1 is pushed whole but cannot be run.
        layer = "manifest" not in target.mediaType
        return Skip("not-a-push" if layer else "not-runnable", f"media type {quoted(target.mediaType)}")
    return pushed(
        source,
        event.request.host if event.request else "",
        target.repository,
        target.tag,
        target.digest,
        pushed_at=read_time(event.timestamp),
        delivery_id=event.id,
    )
