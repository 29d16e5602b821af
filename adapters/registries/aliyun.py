"""Alibaba Cloud Container Registry: a repository's trigger.

Source of the format: https://www.alibabacloud.com/help/en/acr/user-guide/manage-webhooks.
Authentication: none but the URL: `/webhooks/<source>?token=<secret>`.
Host: `registry.<region>.aliyuncs.com` of a personal instance; enterprise instances have names of their own: set
`registryHost`.
Told apart: repeats and order by `pushed_at` (it has no offset and is read as UTC) and by the digest. Not told apart:
what was pushed, except for cosign's tags. There is no event but a push.
"""

from __future__ import annotations

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.bodies import Fields, Text, each, read_fields, read_json, read_time
from adapters.registries.common.images import pushed
from adapters.registries.common.proof import by_query
from warmhook.events import Skip
from warmhook.ports import Json

PATIENCE_SECONDS = 4.0  # neither its patience nor a repeat is documented


class _PushData(Fields):
    tag: Text = ""
    digest: Text = ""
    pushed_at: Json = None


class _Repository(Fields):
    region: Text = ""
    repo_full_name: Text = ""


class _Push(Fields):
    push_data: _PushData
    repository: _Repository


def verify(delivery: Delivery, source: Source) -> bool:
    return by_query(delivery, source)


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery.body], lambda body: _events(read_json(body), source))


def _events(body: Json, source: Source) -> list[Outcome]:
    if isinstance(body, dict) and "push_data" not in body:
        return [Skip("unknown-event", "no push_data")]
    push = read_fields(_Push, body)
    data, repository = push.push_data, push.repository
    host = f"registry.{repository.region}.aliyuncs.com" if repository.region else ""
    pushed_at = read_time(data.pushed_at)
    return [pushed(source, host, repository.repo_full_name, data.tag, data.digest, pushed_at=pushed_at)]
