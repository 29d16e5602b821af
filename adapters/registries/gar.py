"""Google Artifact Registry: the Pub/Sub topic `gcr` of its project, by a push subscription, wrapped or unwrapped.

Source of the format: https://cloud.google.com/artifact-registry/docs/configure-notifications and, for the envelope
and its tokens, https://cloud.google.com/pubsub/docs/push and .../authenticate-push-subscriptions.
Authentication: an OpenID Connect token when the options `audience` and `email` (the subscription's service account)
are set, checked against the source's keys; otherwise `?token=<secret>` in the URL.
Host: the payload holds complete references.
Told apart: repeats by Pub/Sub's message id (with an unwrapped payload only from its headers), order by the publishing
time. A tagged push is one message for the digest and one for each tag; the digest may be missing. Not told apart:
charts and artifacts of other kinds, except by cosign's tags.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable
from typing import Final, Self

from pydantic import BaseModel, Field, model_validator

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, Unreadable, each, quoted, read_fields, read_json, read_time
from adapters.registries.common.images import pushed, split_reference
from adapters.registries.common.oidc import verify_id_token
from adapters.registries.common.options import SourceOptions
from warmhook.events import Skip
from warmhook.ports import Json

_ISSUERS: Final = frozenset({"https://accounts.google.com", "accounts.google.com"})


class Options(SourceOptions):
    audience: str = ""
    """What the push subscription was told to write into its tokens; usually the URL of this source."""
    email: str = ""
    """The service account that signs them."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.audience) != bool(self.email):
            raise ValueError("audience and email are given together or not at all")
        return self


class _Message(Fields):
    data: str
    id: Text = Field("", alias="messageId")
    time: Json = Field(None, alias="publishTime")


class _Change(Fields):
    action: str
    tag: Text = ""
    digest: Text = ""


def takes_tokens(options: BaseModel | None) -> bool:
    return isinstance(options, Options) and bool(options.audience)


def verify(delivery: Delivery, source: Source) -> bool | Awaitable[bool]:
    options = source.options
    if isinstance(options, Options) and options.audience:
        account = {"email": options.email, "email_verified": True}
        return verify_id_token(delivery, source, issuers=_ISSUERS, audience=options.audience, claims=account)
    return verify_query(delivery, source)


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery], lambda one: [_event(one, source)])


def _event(delivery: Delivery, source: Source) -> Outcome:
    body = read_json(delivery.body)
    delivery_id = delivery.headers.get("x-goog-pubsub-message-id", "")
    time: Json = delivery.headers.get("x-goog-pubsub-publish-time", "")
    if isinstance(body, dict) and "message" in body:
        message = read_fields(_Message, body["message"])
        delivery_id, time, body = message.id, message.time, _decoded(message.data)
    if isinstance(body, dict) and "action" not in body:
        return Skip("unknown-event", "no action")
    change = read_fields(_Change, body)
    if change.action != "INSERT":
        known = change.action == "DELETE"
        return Skip("not-a-push" if known else "unknown-event", f"action {quoted(change.action)}")
    host, repository, tag, _ = split_reference(change.tag or change.digest)
    digest = split_reference(change.digest)[3]
    return pushed(source, host, repository, tag, digest, pushed_at=read_time(time), delivery_id=delivery_id)


def _decoded(data: str) -> Json:
    try:
        return read_json(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Unreadable(f"message.data: {error}"[:120]) from None
