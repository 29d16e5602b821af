"""Read pushes from any sender of CloudEvents that name an image: structured, binary or batched.

Source of the format: https://github.com/cloudevents/spec. There is no common event type for pushes. The option `types`
excludes other types. The image is, in this order:
1. `data.image`, else `data.reference`: a complete reference (`data.tag` and `data.digest` complete it);
2. `data.repository`, `data.tag`, `data.digest`, or the names of argocd-image-updater, `data.repositoryName`,
   `data.imageTag`, `data.imageDigest`, under `data.registry`, `data.registryUrl` or `data.host`;
3. `subject`: a reference, with or without its host.
A `data.reference` without `/` names no image: in the OCI specification it is the tag or digest of (2).
Host: from `data` as in (2), else from the reference, else that of `source` if it is a URL.
Authentication: `Authorization`, or `?access_token=<secret>` as in the CloudEvents webhook specification.
Told apart: repeats by `source` and `id`, order by `time`, deletions and pulls by the type's last word, artifacts by
`data.mediaType` or `data.artifactType`. Warmhook's own events are skipped, or a Broker would deliver them in a loop.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from adapters.registries import Adapter, Delivery, Outcome, Source, SourceOptions
from adapters.registries.common.auth import verify_access_token
from adapters.registries.common.bodies import Fields, Text, each_in_batch, quoted, read_fields, read_time
from adapters.registries.common.cloudevents import (
    CloudEvent,
    read_content,
    require_cloudevent,
    source_and_id,
    source_host,
)
from adapters.registries.common.images import LooseReference, host_of, is_manifest, pushed, split_reference
from warmhook.events import Skip
from warmhook.ports import Json

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


def _read(delivery: Delivery, source: Source) -> list[Outcome]:
    return each_in_batch(read_content(delivery), lambda body: _event(delivery, body, source))


def _event(delivery: Delivery, body: Json, source: Source) -> Outcome:
    event = require_cloudevent(delivery, body)
    kind = event.get_type()
    types = source.options_as(Options).types
    if kind.startswith(_OWN):
        return Skip("replication-echo", f"our own {quoted(kind)}")
    if kind.lower().rpartition(".")[2] in _NO_PUSHES:
        return Skip("not-a-push", quoted(kind))
    if types and kind not in types:
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
    image = split_reference(named or repository)
    if not image.repository:
        return Skip("unknown-event", f"{quoted(event.get_type())} names no image")
    image = LooseReference(
        host_of(place) or image.host or source_host(event),
        image.repository,
        image.tag or data.tag or data.imageTag or version,
        image.digest or data.digest or data.imageDigest,
    )
    return pushed(
        source,
        image,
        pushed_at=read_time(event.get_time()),
        delivery_id=source_and_id(event),
        media_types=[data.mediaType, data.artifactType],
    )


ADAPTER = Adapter(__name__, authenticate=verify_access_token, read=_read, options=Options, batched=True)
