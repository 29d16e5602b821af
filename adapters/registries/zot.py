"""zot: the extension `events` with a sink of type http (since 2.1.3), which sends CloudEvents in binary mode.

Source of the format: https://zotregistry.dev/latest/articles/events/ and project-zot/zot `pkg/extensions/events`.
Authentication: the sink's `credentials.token`, or `credentials.username` and `password`, or one of its `headers`, all
as `Authorization`; of basic credentials the secret is the whole value, with `Basic ` in front.
Host: the events name none: set `registryHost`, or in zot a `source` that is the registry's URL.
Told apart: repeats by the event's source and id, order by its time; images from charts, signatures and other artifacts
by the media types in the manifest, which comes along. The digest is always there. The first word of the event types can
be configured in zot, so only what comes after it counts. `image.lint_failed` means that zot refused the push.
zot does not repeat a delivery.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_header
from adapters.registries.common.bodies import Fields, Text, Unreadable, each, quoted, read_fields, read_json, read_time
from adapters.registries.common.cloudevents import CloudEvent, event_or_skip, read_content
from adapters.registries.common.images import host_of, is_manifest, pushed
from warmhook.events import Skip

PATIENCE_SECONDS = 8.0  # of 30 by default; it never repeats

_PUSHED: Final = "image.updated"
_OTHERS: Final = ("image.deleted", "image.lint_failed", "image.scanned", "repository.created")


class _Data(Fields):
    name: str
    reference: Text = ""
    digest: Text = ""
    mediaType: Text = ""  # noqa: N815 - the sender's name
    manifest: Text = ""


class _Descriptor(Fields):
    mediaType: Text = ""  # noqa: N815 - OCI's name


class _Manifest(Fields):
    artifactType: Text = ""  # noqa: N815 - OCI's name
    config: _Descriptor = _Descriptor()
    layers: list[_Descriptor] = Field(default_factory=list)


def verify(delivery: Delivery, source: Source) -> bool:
    return verify_header(delivery, source)


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery], lambda one: [_event(one, source)])


def _event(delivery: Delivery, source: Source) -> Outcome:
    event = event_or_skip(delivery, read_content(delivery))
    if isinstance(event, Skip):
        return event
    kind = ".".join(event.get_type().split(".")[-2:])
    if kind != _PUSHED:
        return Skip("not-a-push" if kind in _OTHERS else "unknown-event", quoted(event.get_type()))
    return _pushed(event, read_fields(_Data, event.get_data()), source)


def _pushed(event: CloudEvent, data: _Data, source: Source) -> Outcome:
    if data.mediaType and not is_manifest(data.mediaType):
        return Skip("not-runnable", f"media type {quoted(data.mediaType)}")
    return pushed(
        source,
        host_of(event.get_source()) if "://" in event.get_source() else "",
        data.name,
        data.reference,
        data.digest,
        pushed_at=read_time(event.get_time()),
        delivery_id=f"{event.get_source()} {event.get_id()}",
        media_types=_media_types(data.manifest),
    )


def _media_types(manifest: str) -> list[str]:
    """What the manifest says its parts are; empty where it cannot be read, because the push is none the worse."""
    try:
        read = read_fields(_Manifest, read_json(manifest))
    except Unreadable:
        return []
    return [read.artifactType, read.config.mediaType, *(layer.mediaType for layer in read.layers)]
