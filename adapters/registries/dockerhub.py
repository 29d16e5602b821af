"""Read pushes from Docker Hub: a repository's webhook.

Source of the format: https://docs.docker.com/docker-hub/repos/manage/webhooks/.
Authentication: the URL only: `/webhooks/<source>?token=<secret>`. The payload's `callback_url` is obsolete and is never
called.
Host: always docker.io.
Told apart: order and repeats by `pushed_at` (seconds). A multi-platform push is several equal deliveries. There is no
id, no digest and no event but a push. Not told apart: artifacts that are no images, unless the undocumented
`media_type` is present.
"""

from __future__ import annotations

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, read_fields, read_json, read_time
from adapters.registries.common.images import LooseReference, pushed
from warmhook.images import DOCKER_HUB
from warmhook.ports import Json


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


def _read(delivery: Delivery, source: Source) -> Outcome:
    push = read_fields(_Push, read_json(delivery.body), key="push_data")
    data, repository = push.push_data, push.repository
    name = repository.repo_name or "/".join(filter(None, (repository.namespace, repository.name)))
    image = LooseReference(DOCKER_HUB, name, data.tag)
    return pushed(source, image, pushed_at=read_time(data.pushed_at), media_types=[data.media_type])


ADAPTER = Adapter(
    __name__,
    authenticate=verify_query,
    read=_read,
    fixed_hosts=lambda source: [] if source.registry_host else [DOCKER_HUB],
    ack_timeout_seconds=4.0,  # neither its timeout nor a retry is documented
)
