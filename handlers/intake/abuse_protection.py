"""Answer the validation request (`OPTIONS`) of a sender of CloudEvents, such as Azure Event Grid.

https://github.com/cloudevents/spec/blob/main/cloudevents/http-webhook.md#4-abuse-protection. A permission means only
that deliveries are expected from this origin; each is still authenticated. `WebHook-Request-Callback` is a URL from
outside and is never called: the answer is in the response.
"""

from __future__ import annotations

from collections.abc import Mapping


def validation_headers(headers: Mapping[str, str], allowed_origins: frozenset[str]) -> dict[str, str] | None:
    """The headers of the answer; `None` if the configuration does not name the origin. Header names in lower case.

    `allowed_origins` are in lower case; `*` means any.
    """
    origin = headers.get("webhook-request-origin", "").strip()
    if not origin or not allowed_origins & {origin.lower(), "*"}:
        return None
    granted = {"allow": "POST", "webhook-allowed-origin": origin}
    rate = headers.get("webhook-request-rate", "").strip()
    if rate:
        # Deliveries per minute. Warmhook sets no limit, so any number is granted.
        granted["webhook-allowed-rate"] = rate if rate.isascii() and rate.isdigit() and len(rate) < 10 else "*"
    return granted
