"""Read the package events of Gitea and of its fork Forgejo: the same body with different headers.

go-gitea/gitea `modules/structs/package.go` and `services/webhook`.
"""

from __future__ import annotations

from typing import Final

from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_payload
from adapters.registries.common.delivery import Delivery, Outcome, Source
from adapters.registries.common.images import LooseReference, host_of, pushed
from warmhook.events import Skip
from warmhook.ports import Json

_CREATED: Final = frozenset({"created", "updated"})


class _Owner(Fields):
    login: Text = ""


class _Package(Fields):
    type: str
    name: str
    version: Text = ""
    html_url: Text = ""
    owner: _Owner = _Owner()


class _Event(Fields):
    action: str
    package: Json


def read_package(delivery: Delivery, source: Source, *, prefix: str) -> Outcome:
    """The event of a delivery whose headers begin with `prefix`. Raises `Unreadable`.

    `package.created_at` is the time of the package's first version, not of this push, so there is no event time.
    """
    body = read_payload(delivery)
    name = delivery.headers.get(f"{prefix}-event", "package")
    if name != "package" or (isinstance(body, dict) and "package" not in body):
        return Skip("unknown-event", quoted(name))
    event = read_fields(_Event, body)
    package = read_fields(_Package, event.package)
    if package.type != "container":
        return Skip("not-a-container", f"type {quoted(package.type)}")
    if event.action not in _CREATED:
        return Skip("not-a-push" if event.action == "deleted" else "unknown-event", f"action {quoted(event.action)}")
    delivery_id = delivery.headers.get(f"{prefix}-delivery", "")
    repository = f"{package.owner.login}/{package.name}"
    image = LooseReference(host_of(package.html_url), repository, package.version)
    return pushed(source, image, delivery_id=delivery_id)
