"""A stand-in for Knative's default Broker (MTChannelBasedBroker over InMemoryChannel, v1.22.2), on any clock.

It answers its sender when every subscriber that matches has answered, repeats and dead letter included. Recordings of
the real one are compared with it in tests/knative.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import quote

from warmhook.ports import Object

Headers: TypeAlias = Mapping[str, str]
Subscriber: TypeAlias = Callable[[dict[str, str], bytes], Awaitable[tuple[int, bytes]]]
"""Takes headers and body, gives status and body."""

_REQUIRED = ("specversion", "id", "source", "type")
_KNOWN = {*_REQUIRED, "time", "subject", "datacontenttype", "dataschema", "data", "data_base64"}


@dataclass(frozen=True, slots=True)
class Delivery:
    """`delivery` of a Broker or a Trigger, exponential."""

    retry: int = 6
    backoff_seconds: float = 0.5
    timeout_seconds: float = 45

    def waits(self) -> list[float]:
        """Before each repeat, in seconds."""
        return [self.backoff_seconds * 2**number for number in range(self.retry)]

    @property
    def longest_seconds(self) -> float:
        """Until the answer where no attempt is answered but the dead letter is, at its last moment."""
        return (self.retry + 1) * self.timeout_seconds + sum(self.waits()) + self.timeout_seconds


def read_delivery(spec: Object) -> Delivery:
    """What a manifest says."""
    assert spec["backoffPolicy"] == "exponential"
    return Delivery(spec["retry"], _seconds(spec["backoffDelay"]), _seconds(spec["timeout"]))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"PT([0-9.]+)S", text)
    assert found, text
    return float(found[1])


@dataclass(slots=True)
class Trigger:
    """A subscriber for the events that match."""

    subscriber: Subscriber
    attributes: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery()
    destination: str = "http://subscriber.example"
    attempts: int = 0


@dataclass(slots=True)
class Broker:
    """One Broker, `namespace/name`, behind its ingress."""

    triggers: list[Trigger]
    name: str = "warmhook-system/warmhook"
    dead_letters: Subscriber | None = None
    arrival_time: str = "2026-03-01T12:00:00.000000000Z"

    async def ingress(self, method: str, path: str, headers: Headers, body: bytes) -> tuple[int, dict[str, str]]:
        """Status and headers of an answer, whose body is always empty. Header names are in lower case."""
        allow = {"allow": "POST, OPTIONS"}
        if method == "OPTIONS":
            return 200, {**allow, "webhook-allowed-origin": "*", "webhook-allowed-rate": "*"}
        if method != "POST":
            return 405, allow
        attributes, data = _read(headers, body)
        if attributes is None:
            return 400, allow
        if path != f"/{self.name}":
            return 404, allow
        matching = [it for it in self.triggers if it.attributes.items() <= attributes.items()]
        await asyncio.gather(*(self._deliver(trigger, attributes, data) for trigger in matching))
        return 202, allow

    async def _deliver(self, trigger: Trigger, attributes: Headers, data: bytes) -> None:
        headers = self._binary(attributes)
        errors: dict[str, str] = {}
        for wait in [*trigger.delivery.waits(), None]:
            trigger.attempts += 1
            try:
                async with asyncio.timeout(trigger.delivery.timeout_seconds):
                    status, body = await trigger.subscriber({**headers, "prefer": "reply"}, data)
            except TimeoutError:
                status, body = 0, b""
            if 200 <= status < 300 and not body:
                return
            errors = {
                "ce-knativeerrorcode": str(status),
                "ce-knativeerrordata": base64.b64encode(body).decode(),
                "ce-knativeerrordest": trigger.destination,
            }
            if 200 <= status < 300:
                # A body that is no event counts as 502, about which the dead letter says nothing.
                status, errors = 502, {}
            if wait is None or not (status == 0 or status in {404, 408, 409, 429} or status >= 500):
                break
            await asyncio.sleep(wait)
        if self.dead_letters is not None:
            await self.dead_letters({**headers, **errors, "ce-knativebrokerttl": "255"}, data)

    def _binary(self, attributes: Headers) -> dict[str, str]:
        """To subscribers always in binary mode, with a content type only where the event has one."""
        headers = {f"ce-{name}": quote(text, safe=_SAFE) for name, text in attributes.items()}
        content_type = headers.pop("ce-datacontenttype", None)
        if content_type is not None:
            headers["content-type"] = attributes["datacontenttype"]
        return {**headers, "ce-knativearrivaltime": self.arrival_time, "kn-namespace": self.name.partition("/")[0]}


_SAFE = " !#$&'()*+,/:;=?@[]{}|~^`<>"


def _read(headers: Headers, body: bytes) -> tuple[dict[str, str] | None, bytes]:
    """Attributes, `None` for what is no event, and data."""
    content_type = headers.get("content-type", "").partition(";")[0]
    if content_type == "application/cloudevents+json":
        found: Any = json.loads(body)
        attributes = {name: text for name, text in found.items() if name not in ("data", "data_base64")}
        data = json.dumps(found["data"], separators=(",", ":")).encode() if "data" in found else b""
    elif content_type.startswith("application/cloudevents"):
        return None, b""
    else:
        attributes = {name[3:]: text for name, text in headers.items() if name.startswith("ce-")}
        if content_type:
            attributes["datacontenttype"] = headers["content-type"]
        data = body
    usable = all(attributes.get(name) for name in _REQUIRED)
    extensions = all(re.fullmatch("[a-z0-9]+", name) for name in attributes if name not in _KNOWN)
    return (attributes if usable and extensions else None), data
