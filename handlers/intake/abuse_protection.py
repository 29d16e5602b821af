"""May this sender of CloudEvents deliver here? It asks by `OPTIONS` before it delivers, as Azure Event Grid does.

https://github.com/cloudevents/spec/blob/main/cloudevents/http-webhook.md#4-abuse-protection. A permission says only
that deliveries are expected from there; each is still authenticated. `WebHook-Request-Callback` is a URL from outside
and is never called: the answer is given at once instead.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["validation_headers"]


def validation_headers(headers: Mapping[str, str], allowed_origins: frozenset[str]) -> dict[str, str] | None:
    """The answer's headers; `None` for an origin that the configuration does not name. Header names in lower case.

    `allowed_origins` are in lower case; `*` stands for any.
    """
    origin = headers.get("webhook-request-origin", "").strip()
    if not origin or not allowed_origins & {origin.lower(), "*"}:
        return None
    granted = {"allow": "POST", "webhook-allowed-origin": origin}
    rate = headers.get("webhook-request-rate", "").strip()
    if rate:
        # Deliveries per minute; there is no limit of ours, so whatever number is asked for is granted.
        granted["webhook-allowed-rate"] = rate if rate.isascii() and rate.isdigit() and len(rate) < 10 else "*"
    return granted
