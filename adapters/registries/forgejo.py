"""Read pushes from Forgejo, also codeberg.org: a webhook with the event Package; bodies are JSON or a form.

Source of the format: https://forgejo.org/docs/latest/user/webhooks/; the body is Gitea's.
Authentication: `X-Forgejo-Signature` or, as it also sends, `X-Gitea-Signature`: HMAC-SHA256 of the body as sent. It is
there with an empty secret too; an empty secret proves nothing here.
Host, and what can be told apart: as for Gitea; repeats by `X-Forgejo-Delivery`.
"""

from __future__ import annotations

from adapters.registries import Adapter, Delivery, Source
from adapters.registries.common.auth import verify_hmac
from adapters.registries.common.gitea_packages import read_package


def _authenticate(delivery: Delivery, source: Source) -> bool:
    return verify_hmac(delivery, source, "x-forgejo-signature") or verify_hmac(delivery, source, "x-gitea-signature")


ADAPTER = Adapter(
    __name__,
    _authenticate,
    lambda delivery, source: read_package(delivery, source, prefix="x-forgejo"),
    ack_timeout_seconds=4.0,  # of 5, as Gitea; no retry
)
