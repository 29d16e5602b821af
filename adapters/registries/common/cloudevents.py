"""Read the CloudEvent of a delivery, or of one element of a batch."""

from __future__ import annotations

from typing import Final

from adapters.cloudevents import CloudEvent, is_json, read_binary, read_structured
from adapters.registries.common.bodies import read_json
from adapters.registries.common.delivery import Delivery, UnknownEvent, Unreadable
from adapters.registries.common.images import host_of
from warmhook.events import NotAnEvent
from warmhook.ports import Json

__all__ = ["CloudEvent", "find_cloudevent", "read_content", "require_cloudevent", "source_and_id", "source_host"]

_STRUCTURED: Final = "application/cloudevents"


def read_content(delivery: Delivery) -> Json:
    """The decoded body. In binary mode data is optional: `None` if there is none, or if it is not JSON.

    Raises `Unreadable`.
    """
    if not _is_binary(delivery):
        return read_json(delivery.body)
    return read_json(delivery.body) if delivery.body and is_json(delivery.media_type()) else None


def find_cloudevent(delivery: Delivery, body: Json) -> CloudEvent | None:
    """The event in the decoded `body`; `None` if the delivery has another format. Raises `Unreadable`."""
    return _read(delivery, body) if _is_cloudevent(delivery, body) else None


def require_cloudevent(delivery: Delivery, body: Json) -> CloudEvent:
    """The event in the decoded `body`, for senders without another format. Raises `Unreadable`."""
    if isinstance(body, dict) and not _is_cloudevent(delivery, body):
        raise UnknownEvent("no CloudEvent; are the ce- headers missing?")
    return _read(delivery, body)


def source_and_id(event: CloudEvent) -> str:
    """What identifies an event: its id is unique for its source only."""
    return f"{event.get_source()} {event.get_id()}"


def source_host(event: CloudEvent) -> str:
    """The host of a `source` that is a URL; empty for any other URI reference."""
    return host_of(event.get_source()) if "://" in event.get_source() else ""


def _read(delivery: Delivery, body: Json) -> CloudEvent:
    try:
        return read_binary(delivery.headers, body) if _is_binary(delivery) else read_structured(body)
    except NotAnEvent as error:
        raise Unreadable(str(error)) from None


def _is_cloudevent(delivery: Delivery, body: Json) -> bool:
    return (
        _is_structured(delivery)
        or _is_binary(delivery)
        or (isinstance(body, dict) and "specversion" in body and "type" in body)
    )


def _is_structured(delivery: Delivery) -> bool:
    return delivery.media_type().startswith(_STRUCTURED)


def _is_binary(delivery: Delivery) -> bool:
    # The content type decides, because a structured event may carry `ce-` headers as well.
    return "ce-type" in delivery.headers and not _is_structured(delivery)
