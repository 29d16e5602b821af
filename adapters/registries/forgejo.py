"""Forgejo, also codeberg.org: a webhook with the event Package; bodies are JSON or a form.

Source of the format: https://forgejo.org/docs/latest/user/webhooks/; the body is Gitea's.
Authentication: `X-Forgejo-Signature` or, as it also sends, `X-Gitea-Signature`: HMAC-SHA256 of the body as sent. It is
there with an empty secret too; an empty secret proves nothing here.
Host, and what can be told apart: as for Gitea; repeats by `X-Forgejo-Delivery`.
"""

from __future__ import annotations

from adapters.registries import Delivery, Outcome, Source
from adapters.registries.common.auth import verify_hmac
from adapters.registries.common.bodies import each
from adapters.registries.common.gitea_packages import read_package

PATIENCE_SECONDS = 4.0  # of 5, as Gitea; it never repeats


def verify(delivery: Delivery, source: Source) -> bool:
    return verify_hmac(delivery, source, "x-forgejo-signature") or verify_hmac(delivery, source, "x-gitea-signature")


def parse(delivery: Delivery, source: Source) -> list[Outcome]:
    return each([delivery], lambda one: [read_package(one, source, prefix="x-forgejo")])
