"""Read pushes from Gitea: a webhook of an organisation, user or repository with the event Package, as JSON or a form.

Source of the format: https://docs.gitea.com/usage/webhooks and go-gitea/gitea `services/webhook`.
Authentication: `X-Gitea-Signature`, HMAC-SHA256 of the body as sent. Gitea signs with an empty secret too, which
authenticates nobody here.
Host: from `html_url`, which is Gitea's `ROOT_URL`.
Told apart: packages that are no containers, repeats by `X-Gitea-Delivery`. There is no event time and, for a tag, no
digest; children of an index have the digest as their version. Not told apart: charts and signatures, except by cosign's
tags. Gitea does not repeat a delivery, and refuses targets inside a cluster unless `[webhook] ALLOWED_HOST_LIST` names
them.
"""

from __future__ import annotations

from adapters.registries import Adapter
from adapters.registries.common.auth import verify_hmac
from adapters.registries.common.gitea_packages import read_package

ADAPTER = Adapter(
    __name__,
    authenticate=lambda delivery, source: verify_hmac(delivery, source, "x-gitea-signature"),
    read=lambda delivery, source: read_package(delivery, source, prefix="x-gitea"),
    ack_timeout_seconds=4.0,  # of 5; no retry
)
