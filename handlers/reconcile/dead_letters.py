"""Log and count the events that no subscriber accepted, as a Knative Broker delivers them to its dead-letter sink."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

from adapters.logs import get_logger
from handlers.metrics import Metrics
from handlers.reconcile.targets import HANDLED
from warmhook.node_report import clean_message

_log = get_logger()

_STATUSES: Final = frozenset(str(int(status)) for status in HTTPStatus)
# Characters of the decoded answer of a subscriber.
_ANSWER_BYTES: Final = 1000


def take_dead_letter(headers: Mapping[str, str], metrics: Metrics) -> None:
    """Log and count one event by its headers; their names are in lower case.

    It writes one line and does nothing else, because anybody in the cluster may post here.
    """
    letter = read_dead_letter(headers)
    # A client may send any text, and each value becomes a series of the metric.
    kind = letter["type"] if letter["type"] in HANDLED else "foreign"
    metrics.dead_letters.labels(kind, letter["code"] if letter["code"] in _STATUSES else "none").inc()
    _log.error("dead-letter", **letter)


def read_dead_letter(headers: Mapping[str, str]) -> dict[str, str]:
    """The event, and why no subscriber accepted it; empty strings for what Knative leaves out.

    https://knative.dev/docs/eventing/event-delivery/: `knativeerrorcode` is the last status, `knativeerrordata` the
    body that came with it, in Base64, and `knativeerrordest` the subscriber. All are missing if a subscriber answered
    2xx with a body that is no event.
    """
    return {
        "event_id": _attribute(headers, "id"),
        "type": _attribute(headers, "type"),
        "subject": _attribute(headers, "subject"),
        "code": _attribute(headers, "knativeerrorcode"),
        "destination": _without_secrets(_attribute(headers, "knativeerrordest")),
        "answer": _decoded(headers.get("ce-knativeerrordata", "")),
    }


def _attribute(headers: Mapping[str, str], name: str) -> str:
    return clean_message(unquote(headers.get(f"ce-{name}", "")))


def _without_secrets(url: str) -> str:
    """`url` without query, fragment, user name and password, any of which may be a token."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.scheme}://{host}{port}{parts.path}" if host else ""


def _decoded(text: str) -> str:
    try:
        return clean_message(base64.b64decode(text, validate=True)[:_ANSWER_BYTES].decode(errors="replace"))
    except (ValueError, binascii.Error):
        return ""  # of another Broker, which may write anything here
