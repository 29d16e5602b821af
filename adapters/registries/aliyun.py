"""Alibaba Cloud Container Registry: a repository's trigger, or a rule of EventBridge for an enterprise instance.

Source of the format: https://www.alibabacloud.com/help/en/acr/user-guide/manage-webhooks and, for the CloudEvent
`cr:Artifact:PushCompleted`, https://www.alibabacloud.com/help/en/eventbridge/user-guide/container-registry-events.
Authentication: none but the URL: `/webhooks/<source>?token=<secret>`.
Host: `registry.<region>.aliyuncs.com` of a personal instance; enterprise instances have names of their own, which
EventBridge does not name either: set `registryHost`.
Told apart: repeats and order by `pushed_at` (it has no offset and is read as UTC) and by the digest, of EventBridge by
the event's id and time. Not told apart: what was pushed, except for cosign's tags. A trigger has no event but a push.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, each, quoted, read_fields, read_json, read_time
from adapters.registries.common.cloudevents import CloudEvent, is_cloudevent, read_cloudevent
from adapters.registries.common.images import pushed
from warmhook.events import Skip
from warmhook.ports import Json

PATIENCE_SECONDS = 4.0  # neither its patience nor a repeat is documented

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


def verify(delivery: Delivery, source: Source) -> bool:
    return verify_query(delivery, source)


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery], lambda one: _events(one, source))


def _events(delivery: Delivery, source: Source) -> list[Outcome]:
    body = read_json(delivery.body)
    if is_cloudevent(delivery, body):
        return [_event(read_cloudevent(delivery, body), source)]
    if isinstance(body, dict) and "push_data" not in body:
        return [Skip("unknown-event", "no push_data")]
    push = read_fields(_Push, body)
    data, repository = push.push_data, push.repository
    host = f"registry.{repository.region}.aliyuncs.com" if repository.region else ""
    pushed_at = read_time(data.pushed_at)
    return [pushed(source, host, repository.repo_full_name, data.tag, data.digest, pushed_at=pushed_at)]


def _event(event: CloudEvent, source: Source) -> Outcome:
    if event.get_type() != _COMPLETED:
        known = event.get_type().startswith(_ANY)
        return Skip("not-a-push" if known else "unknown-event", quoted(event.get_type()))
    data = read_fields(_Completed, event.get_data())
    repository, pushed_at = f"{data.namespace}/{data.name}", read_time(event.get_time())
    return pushed(source, "", repository, data.tag, data.digest, pushed_at=pushed_at, delivery_id=event.get_id())
