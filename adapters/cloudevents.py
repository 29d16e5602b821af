"""Write and read one CloudEvent per HTTP request: structured or binary, according to the content type.

https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/http-protocol-binding.md. The SDK treats any
`ce-` header as binary mode, and invents a missing id, which would make every repeat a new event. So this module
decides mode and required attributes, and gives the SDK only attributes to check. Batched mode is rejected, as Knative
Brokers reject it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.v1.event import CloudEvent

from adapters.strictjson import decode
from warmhook.events import Event, NotAnEvent
from warmhook.ports import Json
from warmhook.timestamps import format_time

__all__ = ["STRUCTURED", "CloudEvent", "is_json", "read_binary", "read_event", "read_structured", "write_event"]

STRUCTURED: Final = "application/cloudevents+json"
_BATCHED: Final = "application/cloudevents-batch"
_REQUIRED: Final = ("id", "source", "type", "specversion")
_NAME: Final = re.compile(r"[a-z0-9]{1,20}")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_NONE: Final[Mapping[str, str]] = {}


def write_event(event: Event, extensions: Mapping[str, str] = _NONE) -> bytes:
    """One event in structured mode; its content type is `STRUCTURED`. `extensions` are attributes on top."""
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": format_time(event.time),
        "datacontenttype": "application/json",
        "data": dict(event.data),
    }
    if event.subject:
        fields["subject"] = event.subject
    return json.dumps(fields | dict(extensions), separators=(",", ":")).encode()


def read_event(headers: Mapping[str, str], body: bytes, received: datetime) -> Event:
    """The event of a request; header names in lower case. `received` replaces a missing time.

    In binary mode the body is JSON whatever its content type, which Knative omits if the sender gave none.
    Raises `NotAnEvent`, also for a batch and for data that is not a JSON object.
    """
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type.startswith(_BATCHED):
        raise NotAnEvent("a batch of events; post one event per request")
    try:
        content = decode(body) if body else None
    except ValueError as error:
        raise NotAnEvent(str(error)) from None
    structured = content_type.startswith("application/cloudevents")
    return _event(read_structured(content) if structured else read_binary(headers, content), received)


def read_structured(fields: Json) -> CloudEvent:
    """The event in a decoded JSON object. Raises `NotAnEvent`."""
    if not isinstance(fields, dict):
        raise NotAnEvent("a structured CloudEvent is a JSON object")
    attributes = {name: value for name, value in fields.items() if name not in ("data", "data_base64")}
    return _checked(attributes, _data(fields))


def read_binary(headers: Mapping[str, str], data: Json) -> CloudEvent:
    """The event whose attributes are the `ce-` headers; `data` is the decoded body. Raises `NotAnEvent`."""
    return _checked({name[3:]: _attribute(text) for name, text in headers.items() if name.startswith("ce-")}, data)


def is_json(media_type: str) -> bool:
    """Whether data of that type is JSON; without a type it is."""
    plain = media_type.partition(";")[0].strip().lower()
    return plain in ("", "application/json", "text/json") or plain.endswith("+json")


def _attribute(text: str) -> str:
    """The value of a header: possibly a quoted string, always percent-encoded (HTTP binding, 3.1.3.2)."""
    if quoted := _QUOTED.fullmatch(text):
        text = _ESCAPED.sub(r"\1", quoted[1])
    return unquote(text)


def _data(fields: Mapping[str, Json]) -> Json:
    """The JSON data, given as a value, as a text with JSON, or as Base64 of such a text; `None` for bytes."""
    data: Json = fields.get("data")
    content_type = fields.get("datacontenttype")
    try:
        if isinstance(given := fields.get("data_base64"), str):
            if isinstance(content_type, str) and not is_json(content_type):
                return None
            return decode(base64.b64decode(given, validate=True))
        if isinstance(data, str) and content_type == "application/json":
            return decode(data)
    except (ValueError, binascii.Error):
        raise NotAnEvent("data is not the JSON it is said to be") from None
    return data


def _checked(attributes: Mapping[str, Json], data: Json) -> CloudEvent:
    """An event with the required attributes; invalid optional ones are omitted, not rejected."""
    missing = [name for name in _REQUIRED if not isinstance(attributes.get(name), str) or not attributes[name]]
    if missing:
        raise NotAnEvent(f"the event has no {', '.join(missing)}")
    usable = {name: value for name, value in attributes.items() if value not in (None, "") and _NAME.fullmatch(name)}
    time = usable["time"] = _time(usable.get("time"))
    for name in ("subject", "datacontenttype", "dataschema"):
        if not isinstance(usable.get(name, ""), str):
            raise NotAnEvent(f"{name} is no text")
    try:
        event = CloudEvent({name: value for name, value in usable.items() if value is not None}, data)
    except CloudEventValidationError as error:
        raise NotAnEvent(f"no CloudEvent 1.0: {', '.join(sorted(error.errors))[:80]}") from None
    if time is None:
        event.get_attributes().pop("time")  # the SDK would use its own clock
    return event


def _time(value: Json) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if time is None else time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _event(event: CloudEvent, received: datetime) -> Event:
    data: Any = event.get_data()
    if data is not None and not isinstance(data, dict):
        raise NotAnEvent("data is no JSON object")
    return Event(
        type=event.get_type(),
        source=event.get_source(),
        id=event.get_id(),
        time=event.get_time() or received,
        subject=event.get_subject() or "",
        data=data or {},
    )
