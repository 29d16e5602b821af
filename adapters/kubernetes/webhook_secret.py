"""Read the Secret of the admission webhook: its certificate and its tokens."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from warmhook.admission_tokens import Tokens, print_tokens, read_tokens
from warmhook.ports import Object

SECRET: Final = "warmhook-tls"  # noqa: S105 - its name
BY_CERT_MANAGER: Final = "cert-manager.io/inject-ca-from"
"""The annotation of a webhook configuration whose `caBundle` cert-manager writes."""
_TOKENS: Final = "admission-tokens"

Certificate = tuple[bytes, bytes]
"""Certificate and key, in PEM."""


@dataclass(frozen=True, slots=True)
class AdmissionSecret:
    """The content of the Secret; unreadable parts count as absent."""

    certificate: bytes = b""
    key: bytes = b""
    authorities: bytes = b""
    tokens: Tokens = ()

    @property
    def pair(self) -> Certificate | None:
        """The certificate for TLS; `None` if a part is missing."""
        return (self.certificate, self.key) if self.certificate and self.key else None


def read_admission_secret(secret: Object) -> AdmissionSecret:
    """Read the parts that Warmhook uses."""
    data: Mapping[str, str] = secret.get("data") or {}
    return AdmissionSecret(
        certificate=_decoded(data.get("tls.crt")),
        key=_decoded(data.get("tls.key")),
        authorities=_decoded(data.get("ca.crt")),
        tokens=read_tokens(_decoded(data.get(_TOKENS))),
    )


def token_data(tokens: Tokens) -> dict[str, bytes]:
    """The data of the Secret for the tokens."""
    return {_TOKENS: print_tokens(tokens)}


def _decoded(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        return b""
