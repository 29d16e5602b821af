"""Read pushes from Azure Container Registry: its own webhooks, or Event Grid in either of its schemas.

Sources: https://learn.microsoft.com/azure/container-registry/container-registry-webhook-reference,
https://learn.microsoft.com/azure/event-grid/event-schema-container-registry and, for the handshake,
https://learn.microsoft.com/azure/event-grid/end-point-validation-event-grid-events-schema. Event Grid validates the
CloudEvents schema with `OPTIONS`, which the receiver answers. The `validationUrl` of a handshake is never called.
Authentication: a custom header (`Authorization`), or `?token=<secret>` in the URL, which Event Grid supports.
Host: `request.host` is the registry's login server.
Told apart: repeats by the event's `id`, order by `timestamp`, charts by their action, other artifacts by the manifest's
media type. The digest is always present. The removal of a tag is not reported.
"""

from __future__ import annotations

import json
from typing import Final

from adapters.registries import Adapter, Delivery, Outcome, Reply, Source
from adapters.registries.common.auth import verify_header, verify_query
from adapters.registries.common.bodies import Fields, each_in_batch, quoted, read_fields, read_json
from adapters.registries.common.cloudevents import find_cloudevent
from adapters.registries.common.distribution_events import read_event
from warmhook.events import Skip
from warmhook.ports import Json

_CHARTS: Final = frozenset({"chart_push", "Microsoft.ContainerRegistry.ChartPushed"})
_OTHERS: Final = frozenset(
    {
        *("delete", "quarantine", "chart_delete"),
        *("Microsoft.ContainerRegistry.ImageDeleted", "Microsoft.ContainerRegistry.ChartDeleted"),
    }
)
_IMAGE_PUSHED: Final = "Microsoft.ContainerRegistry.ImagePushed"
_VALIDATION: Final = "Microsoft.EventGrid.SubscriptionValidationEvent"


class _Native(Fields):
    action: str


class _EventGrid(Fields):
    eventType: str  # noqa: N815 - the sender's name
    data: Json = None


class _Validation(Fields):
    validationCode: str  # noqa: N815 - the sender's name


def _read(delivery: Delivery, source: Source) -> list[Outcome]:
    return each_in_batch(read_json(delivery.body), lambda body: _event(delivery, body, source))


def _event(delivery: Delivery, body: Json, source: Source) -> Outcome:
    if isinstance(body, dict) and "eventType" in body:
        grid = read_fields(_EventGrid, body)
        return _from_event_grid(grid.eventType, grid.data, source)
    event = find_cloudevent(delivery, body)
    if event is not None:
        return _from_event_grid(event.get_type(), event.get_data(), source)
    action = read_fields(_Native, body).action
    if action == "ping":
        return Skip("ping")
    return _skipped(action) or read_event(body, source)


def _from_event_grid(kind: str, data: Json, source: Source) -> Outcome:
    if kind == _VALIDATION:
        code = read_fields(_Validation, data).validationCode
        return Reply(json.dumps({"validationResponse": code}).encode())
    if skipped := _skipped(kind):
        return skipped
    if kind != _IMAGE_PUSHED:
        return Skip("unknown-event", quoted(kind))
    action = read_fields(_Native, data).action
    return read_event(data, source) if action == "push" else Skip("not-a-push", f"action {quoted(action)}")


def _skipped(kind: str) -> Skip | None:
    if kind in _CHARTS:
        return Skip("not-runnable", quoted(kind))
    return Skip("not-a-push", quoted(kind)) if kind in _OTHERS else None


ADAPTER = Adapter(
    __name__,
    authenticate=lambda delivery, source: verify_header(delivery, source) or verify_query(delivery, source),
    read=_read,
    batched=True,  # Event Grid posts a list of events
)
