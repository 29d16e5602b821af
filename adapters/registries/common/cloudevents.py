"""Is a delivery a CloudEvent, and which? For senders that have another format as well, or one CloudEvent in a list."""

from __future__ import annotations

from typing import Final

from adapters.cloudevents import CloudEvent, read_binary, read_structured
from adapters.registries import Delivery
from adapters.registries.common.bodies import Unreadable
from warmhook.events import NotAnEvent
from warmhook.ports import Json

__all__ = ["CloudEvent", "is_cloudevent", "read_cloudevent"]

_STRUCTURED: Final = "application/cloudevents"


def is_cloudevent(delivery: Delivery, body: Json) -> bool:
    """Whether a delivery is a CloudEvent: by its content type, its `ce-` headers, or the look of its decoded body."""
    return (
        delivery.media_type().startswith(_STRUCTURED)
        or "ce-type" in delivery.headers
        or (isinstance(body, dict) and "specversion" in body and "type" in body)
    )


def read_cloudevent(delivery: Delivery, body: Json) -> CloudEvent:
    """The event of a delivery whose decoded body, or one part of it, is `body`. Raises `Unreadable`."""
    # The content type decides, because a structured event may carry `ce-` headers as well.
    structured = delivery.media_type().startswith(_STRUCTURED) or "ce-type" not in delivery.headers
    try:
        return read_structured(body) if structured else read_binary(delivery.headers, body)
    except NotAnEvent as error:
        raise Unreadable(str(error)) from None
