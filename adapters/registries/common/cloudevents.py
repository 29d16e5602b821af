"""Read the CloudEvent of a delivery, for senders that have another format as well, or one CloudEvent in a list."""

from __future__ import annotations

from typing import Final

from adapters.cloudevents import CloudEvent, is_json, read_binary, read_structured
from adapters.registries import Delivery
from adapters.registries.common.bodies import Unreadable, read_json
from warmhook.events import NotAnEvent, Skip
from warmhook.ports import Json

__all__ = ["CloudEvent", "event_or_skip", "is_cloudevent", "read_cloudevent", "read_content"]

_STRUCTURED: Final = "application/cloudevents"


def is_cloudevent(delivery: Delivery, body: Json) -> bool:
    """Whether a delivery is a CloudEvent: by its content type, its `ce-` headers, or the look of its decoded body."""
    return (
        _is_structured(delivery)
        or _is_binary(delivery)
        or (isinstance(body, dict) and "specversion" in body and "type" in body)
    )


def read_content(delivery: Delivery) -> Json:
    """The decoded body. Data is optional in binary mode: `None` where there is none, or none that is JSON.

    Raises `Unreadable`.
    """
    if not _is_binary(delivery):
        return read_json(delivery.body)
    return read_json(delivery.body) if delivery.body and is_json(delivery.media_type()) else None


def event_or_skip(delivery: Delivery, body: Json) -> CloudEvent | Skip:
    """The event of a sender that sends nothing else, or why there is none. Raises `Unreadable`."""
    if isinstance(body, dict) and not is_cloudevent(delivery, body):
        return Skip("unknown-event", "no CloudEvent; are the ce- headers missing?")
    return read_cloudevent(delivery, body)


def read_cloudevent(delivery: Delivery, body: Json) -> CloudEvent:
    """The event of a delivery whose decoded body, or one part of it, is `body`. Raises `Unreadable`."""
    try:
        return read_binary(delivery.headers, body) if _is_binary(delivery) else read_structured(body)
    except NotAnEvent as error:
        raise Unreadable(str(error)) from None


def _is_structured(delivery: Delivery) -> bool:
    return delivery.media_type().startswith(_STRUCTURED)


def _is_binary(delivery: Delivery) -> bool:
    # The content type decides, because a structured event may carry `ce-` headers as well.
    return "ce-type" in delivery.headers and not _is_structured(delivery)
