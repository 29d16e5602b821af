"""Read pushes from Amazon ECR: EventBridge with an API destination, or a CloudEvent made by an input transformer.

Source of the format: https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-eventbridge.html. The CloudEvent
`com.amazon.ecr.image.push` is not a format of AWS. It has `data.{repositoryName, imageTag, imageDigest, registryId}`
and the region in `source` (`urn:aws:ecr:<region>:<account>:repository/<name>`), as other receivers expect it.
Authentication: the connection's API key header (option `header`, default `Authorization`). For basic or bearer
credentials the secret includes their scheme.
Host: `<account>.dkr.ecr.<region>.amazonaws.com`, `.com.cn` in China; for other partitions and for FIPS or dual-stack
names set `registryHost`.
Told apart: repeats by the event's `id`, order by `time`, charts and artifacts by `artifact-media-type`. There is one
event per tag; children of an index have no tag. The digest is always present. A pull-through cache's fills and
replication have their own detail types and are skipped: an image that was pulled or copied is not a release.
"""

from __future__ import annotations

import re
from typing import Final

from pydantic import Field

from adapters.registries import Adapter, Delivery, Outcome, Source, SourceOptions
from adapters.registries.common.auth import verify_header
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_json, read_time
from adapters.registries.common.cloudevents import CloudEvent, find_cloudevent
from adapters.registries.common.delivery import Unreadable
from adapters.registries.common.images import LooseReference, is_manifest, pushed
from warmhook.events import Skip, SkipReason
from warmhook.ports import Json

_PUSH: Final = "ECR Image Action"
_OTHERS: Final[dict[str, SkipReason]] = {
    "ECR Pull Through Cache Action": "pull-through-cache",
    "ECR Replication Action": "replication-echo",
    "ECR Image Scan": "not-a-push",
    "ECR Scan Resource Change": "not-a-push",
}
_TRANSFORMED: Final = "com.amazon.ecr.image.push"
_TRANSFORMED_SOURCE: Final = re.compile(r"(?:urn|arn):aws[a-z-]*:ecr:(?P<region>[^:]*):(?P<account>[^:]*):.*")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_REGION: Final = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]+")


class Options(SourceOptions):
    header: str = "authorization"
    """Name of the header that holds the API key."""


class _Event(Fields):
    id: Text = ""
    detail_type: str = Field(alias="detail-type")
    account: Text = ""
    region: Text = ""
    time: Json = None
    detail: Json = None


class _Detail(Fields):
    result: Text = ""
    action_type: Text = Field("", alias="action-type")
    repository: str = Field(alias="repository-name")
    tag: Text = Field("", alias="image-tag")
    digest: Text = Field("", alias="image-digest")
    manifest_media_type: Text = Field("", alias="manifest-media-type")
    artifact_media_type: Text = Field("", alias="artifact-media-type")


class _Transformed(Fields):
    repositoryName: str  # noqa: N815 - the sender's name
    imageTag: Text = ""  # noqa: N815 - the sender's name
    imageDigest: Text = ""  # noqa: N815 - the sender's name
    registryId: Text = ""  # noqa: N815 - the sender's name


def _read(delivery: Delivery, source: Source) -> Outcome:
    body = read_json(delivery.body)
    transformed = find_cloudevent(delivery, body)
    if transformed is not None:
        return _transformed(transformed, source)
    event = read_fields(_Event, body)
    if event.detail_type != _PUSH:
        return Skip(_OTHERS.get(event.detail_type, "unknown-event"), quoted(event.detail_type))
    detail = read_fields(_Detail, event.detail)
    if detail.action_type != "PUSH" or detail.result != "SUCCESS":
        return Skip("not-a-push", f"{quoted(detail.action_type)} {quoted(detail.result)}")
    if detail.manifest_media_type and not is_manifest(detail.manifest_media_type):
        return Skip("not-runnable", f"media type {quoted(detail.manifest_media_type)}")
    image = LooseReference(_host(event.account, event.region), detail.repository, detail.tag, detail.digest)
    media_types = [detail.artifact_media_type]
    return pushed(source, image, pushed_at=read_time(event.time), delivery_id=event.id, media_types=media_types)


def _transformed(event: CloudEvent, source: Source) -> Outcome:
    if event.get_type() != _TRANSFORMED:
        return Skip("unknown-event", quoted(event.get_type()))
    data = read_fields(_Transformed, event.get_data())
    place = _TRANSFORMED_SOURCE.fullmatch(event.get_source())
    host = _host(data.registryId or place["account"], place["region"]) if place else ""
    image = LooseReference(host, data.repositoryName, data.imageTag, data.imageDigest)
    return pushed(source, image, pushed_at=read_time(event.get_time()), delivery_id=event.get_id())


def _host(account: str, region: str) -> str:
    if not account or not region:
        return ""
    if not _ACCOUNT.fullmatch(account) or not _REGION.fullmatch(region):
        raise Unreadable(f"account {quoted(account)} and region {quoted(region)} are not AWS's")
    return f"{account}.dkr.ecr.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


ADAPTER = Adapter(
    __name__,
    authenticate=lambda delivery, source: verify_header(delivery, source, source.options_as(Options).header.lower()),
    read=_read,
    options=Options,
)
