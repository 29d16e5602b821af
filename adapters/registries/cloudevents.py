"""Any sender of CloudEvents that name an image, structured, binary or batched; for what has no adapter of its own.

Source of the format: https://github.com/cloudevents/spec. There is no common event type for pushes, so the image is
looked for in this order, and other types can be shut out with the option `types`:
1. `data.image`, else `data.reference`: a complete reference (`data.tag` and `data.digest` complete it);
2. `data.repository`, `data.tag`, `data.digest`, or as argocd-image-updater has them `data.repositoryName`,
   `data.imageTag`, `data.imageDigest`, under `data.registry`, `data.registryUrl` or `data.host`;
3. `subject`: a reference, with or without its host.
A `data.reference` without `/` names no image: in the words of the OCI specification it is the tag or digest of (2).
Host: from `data` as in (2), else from the reference, else that of `source` where this is a URL.
Authentication: `Authorization`, or `?access_token=<secret>` as the CloudEvents webhook specification has it.
Told apart: repeats by `source` and `id`, order by `time`; deletions and pulls by the type's last word; media types in
`data.mediaType` or `data.artifactType`. Warmhook's own events are skipped, or a Broker would send them round for ever.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_header, verify_query
from adapters.registries.common.bodies import Fields, Text, each, quoted, read_fields, read_time
from adapters.registries.common.cloudevents import CloudEvent, is_cloudevent, read_cloudevent, read_content
from adapters.registries.common.images import host_of, is_manifest, pushed, split_reference
from adapters.registries.common.options import SourceOptions
from warmhook.events import Skip
from warmhook.ports import Json

LISTS = True  # batched mode

_OWN: Final = "dev.warmhook."
_NO_PUSHES: Final = ("delete", "deleted", "remove", "removed", "pull", "pulled")


class Options(SourceOptions):
    types: list[str] = Field(default_factory=list)
    """The event types that are pushes; empty means all."""


class _Data(Fields):
    image: Text = ""
    reference: Text = ""
    registry: Text = ""
    registryUrl: Text = ""  # noqa: N815 - the sender's name
    host: Text = ""
    repository: Text = ""
    repositoryName: Text = ""  # noqa: N815 - the sender's name
    tag: Text = ""
    imageTag: Text = ""  # noqa: N815 - the sender's name
    digest: Text = ""
    imageDigest: Text = ""  # noqa: N815 - the sender's name
    mediaType: Text = ""  # noqa: N815 - the sender's name
    artifactType: Text = ""  # noqa: N815 - the sender's name


def verify(delivery: Delivery, source: Source) -> bool:
    return verify_header(delivery, source) or verify_query(delivery, source, "access_token")


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    def events(one: Delivery) -> list[Outcome]:
        read = read_content(one)
        parts = read if isinstance(read, list) else [read]
        return each(parts, lambda part: [_event(one, part, source)]) or [Skip("unknown-event", "an empty list")]

    return each([delivery], events)


def _event(delivery: Delivery, body: Json, source: Source) -> Outcome:
    if isinstance(body, dict) and not is_cloudevent(delivery, body):
        return Skip("unknown-event", "no CloudEvent")
    event = read_cloudevent(delivery, body)
    kind = event.get_type()
    options = source.options if isinstance(source.options, Options) else Options()
    if kind.startswith(_OWN):
        return Skip("replication-echo", f"our own {quoted(kind)}")
    if kind.lower().rpartition(".")[2] in _NO_PUSHES:
        return Skip("not-a-push", quoted(kind))
    if options.types and kind not in options.types:
        return Skip("unknown-event", quoted(kind))
    data = read_fields(_Data, event.get_data()) if isinstance(event.get_data(), dict) else _Data()
    if data.mediaType.endswith("+json") and "manifest" in data.mediaType and not is_manifest(data.mediaType):
        return Skip("not-runnable", f"media type {quoted(data.mediaType)}")
    return _image(event, data, source)


def _image(event: CloudEvent, data: _Data, source: Source) -> Outcome:
    place = data.registry or data.registryUrl or data.host
    repository = data.repository or data.repositoryName
    reference, version = (data.reference, "") if "/" in data.reference else ("", data.reference)
    named = data.image or reference or (not repository and event.get_subject()) or ""
    host, path, tag, digest = split_reference(named or repository)
    if not path:
        return Skip("unknown-event", f"{quoted(event.get_type())} names no image")
    return pushed(
        source,
        host_of(place) or host or (host_of(event.get_source()) if "://" in event.get_source() else ""),
        path,
        tag or data.tag or data.imageTag or version,
        digest or data.digest or data.imageDigest,
        pushed_at=read_time(event.get_time()),
        delivery_id=f"{event.get_source()} {event.get_id()}",
        media_types=[data.mediaType, data.artifactType],
    )
