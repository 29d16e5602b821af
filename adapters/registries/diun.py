"""Read pushes from Diun, which polls any registry and reports changes: its notifier `webhook`.

Source of the format: https://crazymax.dev/diun/notif/webhook/ and crazy-max/diun `internal/notif/webhook`.
Authentication: one of the notifier's `headers`, `Authorization`.
Host: `image` is a complete reference.
Told apart: new and updated images by `status`, images by `mime_type`, repeats by the digest. There is neither an id nor
the time of the push: `created` is the time of the build. Not told apart: charts and signatures, except by cosign's
tags. Diun's configuration selects the tags. Diun does not repeat a delivery.
"""

from __future__ import annotations

from typing import Final

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_header
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_json
from adapters.registries.common.images import is_manifest, pushed, split_reference
from warmhook.events import Skip

_PUSHES: Final = frozenset({"new", "update"})
_OTHERS: Final = frozenset({"unchange", "skip", "error"})


class _Report(Fields):
    status: str
    image: str
    mime_type: Text = ""
    digest: Text = ""


def _read(delivery: Delivery, source: Source) -> Outcome:
    report = read_fields(_Report, read_json(delivery.body), key="diun_version")
    if report.status not in _PUSHES:
        return Skip("not-a-push" if report.status in _OTHERS else "unknown-event", f"status {quoted(report.status)}")
    if report.mime_type and not is_manifest(report.mime_type):
        return Skip("not-runnable", f"media type {quoted(report.mime_type)}")
    image = split_reference(report.image)
    return pushed(source, image._replace(digest=image.digest or report.digest))


ADAPTER = Adapter(
    __name__,
    authenticate=verify_header,
    read=_read,
    ack_timeout_seconds=8.0,  # of 10 by default; no retry
)
