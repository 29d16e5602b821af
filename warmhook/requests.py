"""Read what annotations of a WarmImage or a WarmPolicy ask for: to refresh, and to purge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from warmhook.api import POLICY_PURGE_ANNOTATION, POLICY_REFRESH_ANNOTATION, PURGE_ANNOTATION, REFRESH_ANNOTATION

REFRESH_MAX: Final = 64
"""The longest value that a status repeats, in characters; of a longer one it has the hash."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What annotations ask for."""

    refresh: str = ""
    """At most `REFRESH_MAX` characters; empty: nothing."""
    purge: bool = False


def read_requests(annotations: Mapping[str, Any] | None) -> Requests:
    """What a person asks for by the annotations of an object."""
    return _read(annotations or {}, REFRESH_ANNOTATION, PURGE_ANNOTATION)


def read_policy_requests(annotations: Mapping[str, Any] | None) -> Requests:
    """What a WarmImage repeats of the requests of its policy."""
    return _read(annotations or {}, POLICY_REFRESH_ANNOTATION, POLICY_PURGE_ANNOTATION)


def is_purged(annotations: Mapping[str, Any] | None) -> bool:
    """Whether a WarmImage is not wanted on nodes, by a request of its own or of its policy."""
    return read_requests(annotations).purge or read_policy_requests(annotations).purge


def policy_annotations(requests: Requests) -> dict[str, str | None]:
    """The annotations that `read_policy_requests` reads to the same value, absent ones as `None`."""
    return {
        POLICY_REFRESH_ANNOTATION: requests.refresh or None,
        POLICY_PURGE_ANNOTATION: "true" if requests.purge else None,
    }


def _read(annotations: Mapping[str, Any], refresh: str, purge: str) -> Requests:
    value = str(annotations.get(refresh, ""))
    if len(value) > REFRESH_MAX or not value.isprintable():
        value = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
    return Requests(value, str(annotations.get(purge, "false")).lower() != "false")
