"""Read pushes from Alibaba Cloud Container Registry: a repository's trigger, or EventBridge of an enterprise instance.

Source of the format: https://www.alibabacloud.com/help/en/acr/user-guide/manage-webhooks and, for the CloudEvent
`cr:Artifact:PushCompleted`, https://www.alibabacloud.com/help/en/eventbridge/user-guide/container-registry-events.
Authentication: the URL only: `/webhooks/<source>?token=<secret>`.
Host: `registry.<region>.aliyuncs.com` of a personal instance. Enterprise instances have hosts of their own, which
EventBridge does not name either: set `registryHost`.
Told apart: for a trigger, repeats and order by `pushed_at` (without an offset, read as UTC) and by the digest; for
EventBridge, by the event's id and time. A trigger has no event but a push. Not told apart: artifacts that are no
images, except by cosign's tags.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_json, read_time
from adapters.registries.common.cloudevents import CloudEvent, find_cloudevent
from adapters.registries.common.images import LooseReference, pushed
from warmhook.events import Skip
from warmhook.ports import Json

_COMPLETED: Final = "cr:Artifact:PushCompleted"
_ANY: Final = "cr:"


class _PushData(Fields):
    tag: Text = ""
    digest: Text = ""
    pushed_at: Json = None


class _Repository(Fields):
    region: Text = ""
    repo_full_name: Text = ""


class _Push(Fields):
    push_data: _PushData
    repository: _Repository


class _Completed(Fields):
    namespace: str = Field(alias="RepoNamespaceName")
    name: str = Field(alias="RepoName")
    tag: Text = Field("", alias="Tag")
    digest: Text = Field("", alias="Digest")


def _read(delivery: Delivery, source: Source) -> Outcome:
    body = read_json(delivery.body)
    event = find_cloudevent(delivery, body)
    if event is not None:
        return _completed(event, source)
    push = read_fields(_Push, body, key="push_data")
    data, repository = push.push_data, push.repository
    host = f"registry.{repository.region}.aliyuncs.com" if repository.region else ""
    image = LooseReference(host, repository.repo_full_name, data.tag, data.digest)
    return pushed(source, image, pushed_at=read_time(data.pushed_at))


def _completed(event: CloudEvent, source: Source) -> Outcome:
    if event.get_type() != _COMPLETED:
        known = event.get_type().startswith(_ANY)
        return Skip("not-a-push" if known else "unknown-event", quoted(event.get_type()))
    data = read_fields(_Completed, event.get_data())
    image = LooseReference("", f"{data.namespace}/{data.name}", data.tag, data.digest)
    return pushed(source, image, pushed_at=read_time(event.get_time()), delivery_id=event.get_id())


ADAPTER = Adapter(
    __name__,
    authenticate=verify_query,
    read=_read,
    ack_timeout_seconds=4.0,  # neither its timeout nor a retry is documented
)
