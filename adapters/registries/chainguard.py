"""Chainguard's registry, cgr.dev: a subscription to the events of an organisation.

Source of the format: https://edu.chainguard.dev/chainguard/administration/cloudevents/ and chainguard-dev/sdk
`events/registry`. The events are CloudEvents in binary mode.
Authentication: an OpenID Connect token of `https://issuer.enforce.dev` for the audience `customer`, whose subject is
`webhook:<group>`, when the option `group` (the UIDP of the group that has the subscription) is set; otherwise
`?token=<secret>` in the URL.
Host: always cgr.dev.
Told apart: repeats by the event's source and id, order by its time; layers and pushes that failed; the digest is always
there. Not told apart: signatures and attestations, except by cosign's tags. A subscription brings every event of the
organisation, also pulls and changes of its members, which are skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from pydantic import BaseModel

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, each, quoted, read_fields, read_time
from adapters.registries.common.cloudevents import event_or_skip, read_content
from adapters.registries.common.images import pushed
from adapters.registries.common.oidc import verify_id_token
from adapters.registries.common.options import SourceOptions
from warmhook.events import Skip
from warmhook.ports import Json

PATIENCE_SECONDS = 4.0  # neither how long it waits nor a repeat is documented

_HOST: Final = "cgr.dev"
_ISSUERS: Final = frozenset({"https://issuer.enforce.dev"})
_AUDIENCE: Final = "customer"
_PUSHED: Final = "dev.chainguard.registry.push.v1"
_ANY: Final = "dev.chainguard."


class Options(SourceOptions):
    group: str = ""
    """The UIDP of the group that has the subscription; sub-groups as `<group>/<sub-group>`."""


class _Push(Fields):
    repository: str
    tag: Text = ""
    digest: Text = ""
    type: Text = "manifest"
    when: Text = ""
    error: Json = None


class _Data(Fields):
    body: _Push


def takes_tokens(options: BaseModel | None) -> bool:
    return isinstance(options, Options) and bool(options.group)


def verify(delivery: Delivery, source: Source) -> bool | Awaitable[bool]:
    options = source.options
    if isinstance(options, Options) and options.group:
        subscription = {"sub": f"webhook:{options.group}"}
        return verify_id_token(delivery, source, issuers=_ISSUERS, audience=_AUDIENCE, claims=subscription)
    return verify_query(delivery, source)


def fixed_hosts(source: Source) -> list[str]:
    return [] if source.registry_host else [_HOST]


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery], lambda one: [_event(one, source)])


def _event(delivery: Delivery, source: Source) -> Outcome:
    event = event_or_skip(delivery, read_content(delivery))
    if isinstance(event, Skip):
        return event
    kind = event.get_type()
    if kind != _PUSHED:
        return Skip("not-a-push" if kind.startswith(_ANY) else "unknown-event", quoted(kind))
    push = read_fields(_Data, event.get_data()).body
    if push.type != "manifest" or push.error:
        return Skip("not-a-push", "the push failed" if push.error else f"type {quoted(push.type)}")
    # The first element of a repository is the organisation, often with a dot; it is no host.
    repository = push.repository.removeprefix(f"{_HOST}/")
    pushed_at = read_time(event.get_time()) or read_time(push.when)
    delivery_id = f"{event.get_source()} {event.get_id()}"
    return pushed(source, _HOST, repository, push.tag, push.digest, pushed_at=pushed_at, delivery_id=delivery_id)
