"""Anything that can post JSON: a job of a CI system after its push, a script, a registry without webhooks of its own.

Source of the format: this page. One of `{"image": "registry.example.com/shop/web:1.4"}`, the same with `@sha256:...`,
`{"images": ["...", "..."]}`, or as Keel's native webhook has it (https://keel.sh/docs/#native-webhooks)
`{"name": "registry.example.com/shop/web", "tag": "1.4"}`; `digest` may complete the first and the last.
Authentication: `Authorization: Bearer <secret>`, or `X-Warmhook-Signature: sha256=<HMAC-SHA256 of the body in
hexadecimal digits>`, so that the secret does not travel.
Host: from the reference, which must name it.
Told apart: repeats by the digest; without one every delivery is a push. There is neither id nor time. Not told apart:
charts and signatures, except by cosign's tags.
"""

from __future__ import annotations

from pydantic import Field

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_header, verify_hmac
from adapters.registries.common.bodies import Fields, Text, Unreadable, each, read_fields, read_json
from adapters.registries.common.images import pushed, split_reference
from warmhook.events import Skip
from warmhook.ports import Json

PATIENCE_SECONDS = 4.0  # a job that posts by curl does not repeat unless it is told to


class _Push(Fields):
    image: Text = ""
    images: list[Json] = Field(default_factory=list)
    name: Text = ""
    tag: Text = ""
    digest: Text = ""


def verify(delivery: Delivery, source: Source) -> bool:
    return verify_header(delivery, source) or verify_hmac(delivery, source, "x-warmhook-signature", prefix="sha256=")


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery.body], lambda body: _events(read_json(body), source))


def _events(body: Json, source: Source) -> list[Outcome]:
    push = read_fields(_Push, body)

    def listed(image: Json) -> list[Outcome]:
        if not isinstance(image, str):
            raise Unreadable("images: an element is no text")
        return [_pushed(image, source)]

    one = push.image or push.name
    outcomes = [_pushed(one, source, push.tag, push.digest)] if one else []
    return outcomes + each(push.images, listed) or [Skip("unknown-event", "neither image, images nor name")]


def _pushed(reference: str, source: Source, tag: str = "", digest: str = "") -> Outcome:
    host, repository, own_tag, own_digest = split_reference(reference)
    return pushed(source, host, repository, own_tag or tag, own_digest or digest)
