"""Make the answers of the page: HTML with the headers that keep others out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import HTMLResponse, Response

from adapters.kubernetes.errors import KubernetesError
from handlers.ui.pages import error_page, sign_in_page

HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    # No site keeps a handle to a tab of the page, nor learns whether an answer loads.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
BUSY: Final = "Too many requests at once. Try again in a few seconds."
_UNREACHABLE: Final = "The API server does not answer, so nobody can be signed in. Try again in a few seconds."
_REFUSED: Final = "The API server lets this page review no tokens. Install the component knative/components/ui."


def html(status: int, content: str, headers: Mapping[str, str] | None = None) -> Response:
    """A page."""
    return HTMLResponse(content, status, {**HEADERS, **(headers or {})})


def problem(status: int, message: str) -> Response:
    """A page that says what is wrong."""
    return html(status, error_page(status, message), {"retry-after": "5"} if status == 503 else {})


def sign_in(status: int, message: str = "") -> Response:
    """The form for a token; it never repeats one."""
    # Otherwise a browser sends the origin `null` with the form, as it would for another site.
    headers = {"referrer-policy": "same-origin"}
    return html(status, sign_in_page(message), headers | ({"www-authenticate": "Bearer"} if status == 401 else {}))


def not_reviewed(error: KubernetesError) -> Response:
    """The answer if the API server could not say who reads."""
    return problem(503, _REFUSED if error.status in (401, 403, 404) else _UNREACHABLE)
