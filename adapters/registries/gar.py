"""Read pushes from Google Artifact Registry: a push subscription, wrapped or unwrapped, to the Pub/Sub topic `gcr`.

Source of the format: https://cloud.google.com/artifact-registry/docs/configure-notifications and, for the envelope and
its tokens, https://cloud.google.com/pubsub/docs/push and .../authenticate-push-subscriptions.
Authentication: an OpenID Connect token if the options `audience` and `email` (the subscription's service account) are
set, verified with the source's keys; otherwise `?token=<secret>` in the URL.
Host: the payload holds complete references.
Told apart: repeats by Pub/Sub's message id (for an unwrapped payload, from its headers only), order by the publish
time. A tagged push is one message for the digest and one for each tag; the digest may be missing. Not told apart:
charts and other artifacts, except by cosign's tags.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Self

from pydantic import Field, model_validator

from adapters.registries import Adapter, Delivery, IdToken, Outcome, Source, SourceOptions
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_json, read_time
from adapters.registries.common.delivery import Unreadable
from adapters.registries.common.images import pushed, split_reference
from warmhook.events import Skip
from warmhook.ports import Json

_ISSUERS: Final = frozenset({"https://accounts.google.com", "accounts.google.com"})


class Options(SourceOptions):
    audience: str = ""
    """The audience that the push subscription writes into its tokens; usually the URL of this source."""
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


def _id_token(source: Source) -> IdToken | None:
    options = source.options_as(Options)
    claims = {"email": options.email, "email_verified": True}
    return IdToken(_ISSUERS, options.audience, claims) if options.audience else None


def _read(delivery: Delivery, source: Source) -> Outcome:
    body = read_json(delivery.body)
    delivery_id = delivery.headers.get("x-goog-pubsub-message-id", "")
    time: Json = delivery.headers.get("x-goog-pubsub-publish-time", "")
    if isinstance(body, dict) and "message" in body:
        message = read_fields(_Message, body["message"])
        delivery_id, time, body = message.id, message.time, _decoded(message.data)
    change = read_fields(_Change, body, key="action")
    if change.action != "INSERT":
        known = change.action == "DELETE"
        return Skip("not-a-push" if known else "unknown-event", f"action {quoted(change.action)}")
    image = split_reference(change.tag or change.digest)._replace(digest=split_reference(change.digest).digest)
    return pushed(source, image, pushed_at=read_time(time), delivery_id=delivery_id)


def _decoded(data: str) -> Json:
    try:
        return read_json(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Unreadable(f"message.data: {error}"[:120]) from None


ADAPTER = Adapter(__name__, authenticate=verify_query, read=_read, options=Options, id_token=_id_token)
