"""Read pushes from Quay and quay.io: a repository notification "push to repository" of method "webhook POST".

Source of the format: quay/quay `notifications/notificationevent.py` (RepoPushEvent).
Authentication: the URL only: `/webhooks/<source>?token=<secret>`.
Host: from `docker_url`, which is Quay's `SERVER_HOSTNAME`.
Told apart: pushes by `updated_tags`. The body has no id, time, digest or event name, so every delivery counts as a
push. Not told apart: artifacts that are no images, except by cosign's tags.
Quay disables a notification silently after three deliveries in a row without a 2xx answer.
"""

from __future__ import annotations

from typing import Final

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, each, read_fields, read_json
from adapters.registries.common.delivery import Unreadable
from adapters.registries.common.images import LooseReference, host_of, pushed, split_reference
from warmhook.events import Skip
from warmhook.ports import Json

# What Quay's other notifications have: every one names its repository this way.
_ANY_EVENT: Final = "docker_url"


class _Push(Fields):
    docker_url: Text = ""
    repository: Text = ""
    updated_tags: list[Json] | None = None


def _read(delivery: Delivery, source: Source) -> Outcome | list[Outcome]:
    body = read_json(delivery.body)
    push = read_fields(_Push, body)
    if not push.updated_tags:
        return Skip("not-a-push" if _ANY_EVENT in body else "unknown-event", "no updated_tags")
    repository = push.repository or split_reference(push.docker_url).repository

    def push_of(tag: Json) -> Outcome:
        if not isinstance(tag, str):
            raise Unreadable("updated_tags: an element is no text")
        return pushed(source, LooseReference(host_of(push.docker_url), repository, tag))

    return each(push.updated_tags, push_of)


ADAPTER = Adapter(
    __name__,
    authenticate=verify_query,
    read=_read,
    ack_timeout_seconds=8.0,  # of 10; three refusals in a row disable the notification
)
