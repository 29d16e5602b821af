"""Read pushes from Forgejo, also codeberg.org: a webhook with the event Package, as JSON or a form.

Source of the format: https://forgejo.org/docs/latest/user/webhooks/; the body is Gitea's.
Authentication: `X-Forgejo-Signature` or `X-Gitea-Signature`: HMAC-SHA256 of the body as sent. Forgejo signs with an
empty secret too, which authenticates nobody here.
Host: from `html_url`, as for Gitea.
Told apart: repeats by `X-Forgejo-Delivery`; everything else as for Gitea.
"""

from __future__ import annotations

from adapters.registries import Adapter
from adapters.registries.common.auth import verify_hmac
from adapters.registries.common.gitea_packages import read_package

ADAPTER = Adapter(
    __name__,
    authenticate=lambda delivery, source: (
        verify_hmac(delivery, source, "x-forgejo-signature") or verify_hmac(delivery, source, "x-gitea-signature")
    ),
    read=lambda delivery, source: read_package(delivery, source, prefix="x-forgejo"),
    ack_timeout_seconds=4.0,  # of 5, as Gitea; no retry
)
