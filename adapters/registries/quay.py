"""Quay and quay.io: a repository notification "push to repository" of method "webhook POST".

Source of the format: quay/quay `notifications/notificationevent.py` (RepoPushEvent).
Authentication: none but the URL: `/webhooks/<source>?token=<secret>`.
Host: from `docker_url`, that is Quay's `SERVER_HOSTNAME`.
Told apart: almost nothing: neither id, time, digest nor the event's name is in the body. A push is what has
`updated_tags`, and every delivery counts as one. Not told apart: what was pushed, except for cosign's tags.
Quay disables a notification silently after three deliveries in a row that got no 2xx.
"""

from __future__ import annotations

from typing import Final

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, Unreadable, each, read_fields, read_json
from adapters.registries.common.images import host_of, pushed, split_reference
from warmhook.events import Skip
from warmhook.ports import Json

PATIENCE_SECONDS = 8.0  # of 10, and three refusals in a row switch the notification off

# What Quay's other notifications have: every one names its repository this way.
_ANY_EVENT: Final = "docker_url"


class _Push(Fields):
    docker_url: Text = ""
    repository: Text = ""
    updated_tags: list[Json] | None = None


def verify(delivery: Delivery, source: Source) -> bool:
    return verify_query(delivery, source)


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery.body], lambda body: _events(read_json(body), source))


def _events(body: Json, source: Source) -> list[Outcome]:
    push = read_fields(_Push, body)
    if not push.updated_tags:
        return [Skip("not-a-push" if _ANY_EVENT in body else "unknown-event", "no updated_tags")]
    host, repository = host_of(push.docker_url), push.repository or split_reference(push.docker_url)[1]

    def tagged(tag: Json) -> list[Outcome]:
        if not isinstance(tag, str):
            raise Unreadable("updated_tags: an element is no text")
        return [pushed(source, host, repository, tag)]

    return each(push.updated_tags, tagged)
