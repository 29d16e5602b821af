"""Read pushes from zot: the extension `events` with a sink of type http (since 2.1.3), as CloudEvents in binary mode.

Source of the format: https://zotregistry.dev/latest/articles/events/ and project-zot/zot `pkg/extensions/events`.
Authentication: the sink's `credentials.token`, `credentials.username` and `password`, or one of its `headers`, all as
`Authorization`. For basic credentials the secret is the whole value, including `Basic `.
Host: the events name none: set `registryHost`, or in zot a `source` that is the registry's URL.
Told apart: repeats by the event's source and id, order by its time, charts, signatures and other artifacts by the media
types in the manifest, which is part of the event. The digest is always present. zot can configure the first word of the
event types, so only the rest counts. `image.lint_failed` means that zot refused the push. zot does not repeat a
delivery.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_header
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_json, read_time
from adapters.registries.common.cloudevents import (
    CloudEvent,
    read_content,
    require_cloudevent,
    source_and_id,
    source_host,
)
from adapters.registries.common.delivery import Unreadable
from adapters.registries.common.images import LooseReference, is_manifest, pushed
from warmhook.events import Skip

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


def _read(delivery: Delivery, source: Source) -> Outcome:
    event = require_cloudevent(delivery, read_content(delivery))
    kind = ".".join(event.get_type().split(".")[-2:])
    if kind != _PUSHED:
        return Skip("not-a-push" if kind in _OTHERS else "unknown-event", quoted(event.get_type()))
    return _pushed(event, read_fields(_Data, event.get_data()), source)


def _pushed(event: CloudEvent, data: _Data, source: Source) -> Outcome:
    if data.mediaType and not is_manifest(data.mediaType):
        return Skip("not-runnable", f"media type {quoted(data.mediaType)}")
    return pushed(
        source,
        LooseReference(source_host(event), data.name, data.reference, data.digest),
        pushed_at=read_time(event.get_time()),
        delivery_id=source_and_id(event),
        media_types=_media_types(data.manifest),
    )


def _media_types(manifest: str) -> list[str]:
    """The media types in a manifest; empty if it cannot be read, which does not affect the push."""
    try:
        read = read_fields(_Manifest, read_json(manifest))
    except Unreadable:
        return []
    return [read.artifactType, read.config.mediaType, *(layer.mediaType for layer in read.layers)]


ADAPTER = Adapter(
    __name__,
    authenticate=verify_header,
    read=_read,
    ack_timeout_seconds=8.0,  # of 30 by default; no retry
)
