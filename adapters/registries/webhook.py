"""Read pushes from anything that can post JSON: a CI job after its push, or a script.

Source of the format: this page. One of `{"image": "registry.example.com/shop/web:1.4"}`, the same with `@sha256:...`,
`{"images": ["...", "..."]}`, or as Keel's native webhook has it (https://keel.sh/docs/#native-webhooks)
`{"name": "registry.example.com/shop/web", "tag": "1.4"}`; `digest` may complete the first and the last.
Authentication: `Authorization: Bearer <secret>`, or `X-Warmhook-Signature: sha256=<HMAC-SHA256 of the body in
hexadecimal digits>`, which does not send the secret.
Host: from the reference, which must name it.
Told apart: repeats by the digest; without one every delivery is a push. There is neither id nor time. Not told apart:
charts and signatures, except by cosign's tags.
"""

from __future__ import annotations

from pydantic import Field

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_header, verify_hmac
from adapters.registries.common.bodies import Fields, Text, each, read_fields, read_json
from adapters.registries.common.delivery import Unreadable
from adapters.registries.common.images import pushed, split_reference
from warmhook.events import Skip
from warmhook.ports import Json


class _Push(Fields):
    image: Text = ""
    images: list[Json] = Field(default_factory=list)
    name: Text = ""
    tag: Text = ""
    digest: Text = ""


def _read(delivery: Delivery, source: Source) -> list[Outcome]:
    push = read_fields(_Push, read_json(delivery.body))

    def push_of(image: Json) -> Outcome:
        if not isinstance(image, str):
            raise Unreadable("images: an element is no text")
        return _pushed(image, source)

    reference = push.image or push.name
    outcomes = [_pushed(reference, source, push.tag, push.digest)] if reference else []
    return outcomes + each(push.images, push_of) or [Skip("unknown-event", "neither image, images nor name")]


def _pushed(reference: str, source: Source, tag: str = "", digest: str = "") -> Outcome:
    image = split_reference(reference)
    return pushed(source, image._replace(tag=image.tag or tag, digest=image.digest or digest))


ADAPTER = Adapter(
    __name__,
    authenticate=lambda delivery, source: (
        verify_header(delivery, source) or verify_hmac(delivery, source, "x-warmhook-signature", prefix="sha256=")
    ),
    read=_read,
    ack_timeout_seconds=4.0,  # a job that posts with curl does not retry by default
)
