"""Read pushes from Harbor: a project's webhook policy, payload format Default or CloudEvents (since 2.8).

Source of the format: goharbor/harbor `src/pkg/notifier/model/event.go` and `formats/cloudevents.go`;
https://goharbor.io/docs/main/working-with-projects/project-configuration/configure-webhooks/.
Authentication: the policy's "auth header" comes verbatim as `Authorization`. There is no signature and no time stamp.
Host: from `resource_url`, that is Harbor's `external_url`, often not the name nodes use: set `registryHost`.
Told apart: repeats by the CloudEvents id, in the Default format by `occur_at` (seconds). Every manifest is an event of
its own, so a multi-platform push is several untagged ones and a tagged one. The digest is always there.
Not told apart: charts, signatures and SBOMs have no media type here; only cosign's tags show.
Pulling through a proxy-cache project makes a push event by an operator of Harbor's own, which is skipped. Replication
into this Harbor is an ordinary push (operator `harbor-jobservice`) and is warmed; `REPLICATION` events name no image.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_header
from adapters.registries.common.bodies import Fields, Text, each, quoted, read_fields, read_json, read_time
from adapters.registries.common.cloudevents import find_cloudevent
from adapters.registries.common.images import LooseReference, host_of, pushed, split_reference
from warmhook.events import Skip
from warmhook.ports import Json

# `pushImage` is the name of Harbor 1.x.
_PUSHES: Final = frozenset({"PUSH_ARTIFACT", "pushImage", "harbor.artifact.pushed"})
_OTHERS: Final = frozenset(
    {
        *("PULL_ARTIFACT", "DELETE_ARTIFACT", "SCANNING_COMPLETED", "SCANNING_FAILED", "SCANNING_STOPPED"),
        *("QUOTA_EXCEED", "QUOTA_WARNING", "REPLICATION", "TAG_RETENTION"),
        *("harbor.artifact.pulled", "harbor.artifact.deleted", "harbor.scan.completed", "harbor.scan.failed"),
        *("harbor.scan.stopped", "harbor.quota.exceeded", "harbor.quota.warned"),
        *("harbor.replication.status.changed", "harbor.tag_retention.finished"),
    }
)
_PROXY_CACHE: Final = "harbor#proxy-cache-service"


class _Default(Fields):
    type: str
    occur_at: Json = None
    operator: Text = ""
    event_data: Json = None


class _Repository(Fields):
    name: Text = ""
    namespace: Text = ""
    repo_full_name: Text = ""


class _EventData(Fields):
    resources: list[Json]
    repository: _Repository = _Repository()


class _Resource(Fields):
    resource_url: Text = ""
    tag: Text = ""
    digest: Text = ""


@dataclass(frozen=True, slots=True)
class _Event:
    """What both payload formats say about an event."""

    type: str
    operator: Json
    data: Json
    time: datetime | None
    id: str = ""


def _read(delivery: Delivery, source: Source) -> Outcome | list[Outcome]:
    event = _event(delivery)
    if event.type not in _PUSHES:
        return Skip("not-a-push" if event.type in _OTHERS else "unknown-event", quoted(event.type))
    if event.operator == _PROXY_CACHE:
        return Skip("proxy-cache", "stored by a pull through a proxy-cache project")
    data = read_fields(_EventData, event.data)

    def push(part: Json) -> Outcome:
        resource = read_fields(_Resource, part)
        image = LooseReference(
            host_of(resource.resource_url), _repository(data.repository, resource), resource.tag, resource.digest
        )
        return pushed(source, image, pushed_at=event.time, delivery_id=event.id)

    return each(data.resources, push) or [Skip("no-tag-no-digest", "no resources")]


def _event(delivery: Delivery) -> _Event:
    body = read_json(delivery.body)
    event = find_cloudevent(delivery, body)
    if event is not None:
        operator, time = event.get_extension("operator"), read_time(event.get_time())
        return _Event(event.get_type(), operator, event.get_data(), time, event.get_id())
    default = read_fields(_Default, body)
    return _Event(default.type, default.operator, default.event_data, read_time(default.occur_at))


def _repository(repository: _Repository, resource: _Resource) -> str:
    return (
        repository.repo_full_name
        or split_reference(resource.resource_url).repository
        or "/".join(filter(None, (repository.namespace, repository.name)))
    )


ADAPTER = Adapter(__name__, verify_header, _read)
