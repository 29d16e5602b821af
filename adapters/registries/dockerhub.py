"""Docker Hub: a repository's webhook.

Source of the format: https://docs.docker.com/docker-hub/repos/manage/webhooks/.
Authentication: none but the URL, so the secret goes there: `/webhooks/<source>?token=<secret>`. The payload's
`callback_url` is a relic and is never called.
Host: always docker.io.
Told apart: order and repeats by `pushed_at` (seconds); a multi-platform push comes as several equal deliveries. There
is no id, no digest and no event but a push. Not told apart: what was pushed, unless the undocumented `media_type` is
there.
"""

from __future__ import annotations

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, each, read_fields, read_json, read_time
from adapters.registries.common.images import pushed
from warmhook.events import Skip
from warmhook.images import DOCKER_HUB
from warmhook.ports import Json

PATIENCE_SECONDS = 4.0  # neither its patience nor a repeat is documented


class _PushData(Fields):
    tag: Text = ""
    pushed_at: Json = None
    media_type: Text = ""


class _Repository(Fields):
    repo_name: Text = ""
    namespace: Text = ""
    name: Text = ""


class _Push(Fields):
    push_data: _PushData
    repository: _Repository


def verify(delivery: Delivery, source: Source) -> bool:
    return verify_query(delivery, source)


def fixed_hosts(source: Source) -> list[str]:
    return [] if source.registry_host else [DOCKER_HUB]


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery.body], lambda body: _events(read_json(body), source))


def _events(body: Json, source: Source) -> list[Outcome]:
    if isinstance(body, dict) and "push_data" not in body:
        return [Skip("unknown-event", "no push_data")]
    push = read_fields(_Push, body)
    data, repository = push.push_data, push.repository
    name = repository.repo_name or "/".join(filter(None, (repository.namespace, repository.name)))
    pushed_at = read_time(data.pushed_at)
    return [pushed(source, DOCKER_HUB, name, data.tag, pushed_at=pushed_at, media_types=[data.media_type])]
