"""Read pushes from Harbor: a project's webhook policy, payload format Default or CloudEvents (since 2.8).

Source of the format: goharbor/harbor `src/pkg/notifier/model/event.go` and `formats/cloudevents.go`;
https://goharbor.io/docs/main/working-with-projects/project-configuration/configure-webhooks/.
Authentication: the policy's "auth header", verbatim as `Authorization`. There is no signature and no time stamp.
Host: from `resource_url`, which is Harbor's `external_url`, often not the name that nodes use: set `registryHost`.
Told apart: repeats by the CloudEvents id, in the Default format by `occur_at` (seconds). Every manifest is an event, so
a multi-platform push is several untagged events and a tagged one. The digest is always present. Not told apart: charts,
signatures and SBOMs, except by cosign's tags, because there is no media type. A pull through a proxy-cache project is a
push event of a fixed operator and is skipped. Replication into this Harbor is an ordinary push (operator
`harbor-jobservice`) and is warmed; `REPLICATION` events name no image.
"""

from __future__ import annotations

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


class _Event(Fields):
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


def _read(delivery: Delivery, source: Source) -> Outcome | list[Outcome]:
    event, delivery_id = _event(delivery)
    if event.type not in _PUSHES:
        return Skip("not-a-push" if event.type in _OTHERS else "unknown-event", quoted(event.type))
    if event.operator == _PROXY_CACHE:
        return Skip("proxy-cache", "stored by a pull through a proxy-cache project")
    data = read_fields(_EventData, event.event_data)

    def push(part: Json) -> Outcome:
        resource = read_fields(_Resource, part)
        repository = _repository(data.repository, resource)
        image = LooseReference(host_of(resource.resource_url), repository, resource.tag, resource.digest)
        return pushed(source, image, pushed_at=read_time(event.occur_at), delivery_id=delivery_id)

    return each(data.resources, push) or [Skip("no-tag-no-digest", "no resources")]


def _event(delivery: Delivery) -> tuple[_Event, str]:
    """The event in either payload format, and its id, which the Default format does not have."""
    body = read_json(delivery.body)
    event = find_cloudevent(delivery, body)
    if event is None:
        return read_fields(_Event, body), ""
    return _Event.model_construct(
        type=event.get_type(),
        occur_at=event.get_time(),
        operator=event.get_extension("operator"),
        event_data=event.get_data(),
    ), event.get_id()


def _repository(repository: _Repository, resource: _Resource) -> str:
    return (
        repository.repo_full_name
        or split_reference(resource.resource_url).repository
        or "/".join(filter(None, (repository.namespace, repository.name)))
    )


ADAPTER = Adapter(__name__, authenticate=verify_header, read=_read)
