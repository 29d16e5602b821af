"""Tell `web` of a push as a good sender does: signed, and repeated while it cannot be stored.

The body and the signature are those of senders of kind `webhook` (adapters/registries/webhook.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final

import httpx

from adapters.clock import Backoff, Clock
from warmhook.timestamps import parse_retry_after

SIGNATURE_HEADER: Final = "x-warmhook-signature"
_ATTEMPT_SECONDS: Final = 10.0
_FIRST_WAIT_SECONDS: Final = 1.0
_LONGEST_WAIT_SECONDS: Final = 15.0
_LONGEST_ASKED_SECONDS: Final = 60.0
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same delivery may be accepted: of `web` only 503, the others of what is in front of it."""
_QUOTED: Final = 200


class NotDelivered(Exception):
    """The delivery was not accepted; the message says why and what to check, and has no secret."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """An accepted delivery. A policy need not want the image: the answer is the same."""

    status: int
    attempts: int


def push_body(image: str) -> bytes:
    """The body of a delivery of one image."""
    return json.dumps({"image": image}, separators=(",", ":")).encode()


def signature(body: bytes, secret: bytes) -> str:
    """The value of `SIGNATURE_HEADER`: it proves that the sender knows the secret, without sending it."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


async def send_push(
    client: httpx.AsyncClient, url: str, body: bytes, secret: bytes, *, clock: Clock, seconds: float
) -> Delivered:
    """Post `body`, and repeat it for so many seconds while the answer is that it may be accepted later.

    Raises `NotDelivered`.
    """
    headers = {SIGNATURE_HEADER: signature(body, secret), "content-type": "application/json"}
    backoff = Backoff(
        clock,
        first_seconds=_FIRST_WAIT_SECONDS,
        longest_seconds=_LONGEST_WAIT_SECONDS,
        longest_asked_seconds=_LONGEST_ASKED_SECONDS,
    )
    until, attempts = clock.monotonic() + seconds, 0
    while True:
        attempts += 1
        problem, wait = await _attempt(client, url, body, headers)
        if isinstance(problem, int):
            return Delivered(problem, attempts)
        pause = backoff.seconds(wait)
        if clock.monotonic() + pause >= until:
            times = f"{attempts} times" if attempts > 1 else "once"
            raise NotDelivered(f"{problem}; tried {times}. The image is not announced: run this again")
        await clock.sleep(pause)


async def _attempt(
    client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str]
) -> tuple[int | str, float | None]:
    """The status of an accepted delivery, or why it may be accepted later, and after how many seconds to ask again.

    Raises `NotDelivered` if repeating cannot help.
    """
    try:
        # The timeout of httpx is one for each read.
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            answer = await client.post(url, content=body, headers=headers, timeout=_ATTEMPT_SECONDS)
    except TimeoutError:
        return f"{url} gave no answer within {_ATTEMPT_SECONDS:g} seconds", None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise NotDelivered(f"--to {url}: {error}") from None
    except httpx.TransportError as error:
        said = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in said:
            advice = "set SSL_CERT_FILE to the certificates of your CA"
            raise NotDelivered(f"the certificate of {url} is not trusted ({said}): {advice}") from None
        return f"{url} gave no answer ({said})", None
    if answer.is_success:
        return answer.status_code, None
    if answer.status_code in _LATER:
        asked = parse_retry_after(answer.headers.get("retry-after"))
        return f"{url} answered {answer.status_code}: the push could not be stored", asked
    raise NotDelivered(_refused(url, answer))


def _refused(url: str, answer: httpx.Response) -> str:
    """Why a delivery was refused, and what to check."""
    status = answer.status_code
    if answer.is_redirect:
        return f"{url} is at another address, {answer.headers.get('location', '')[:_QUOTED]!r}: give that with --to"
    advice = {
        401: "the secret is not that of the source, or the source is not of kind webhook",
        403: "something in front of web refused it: check --to",
        404: "web has no source of that name, or --to is not the address of web: check --source and --to",
        405: "--to is not the address of web",
        413: "the body is too large for web or for what is in front of it",
    }.get(status)
    return f"{url} answered {status}: {advice or 'check that --to is the address of web'}"
