"""Decide which tokens the path of the admission webhook may carry, and when a new one is made.

A client that knows the path is treated as the API server, so a token is random and is replaced in time. The previous
token stays valid: the replicas of `web` and the API servers notice a new token at different times.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

RANDOM_BITS: Final = 192
_LIFETIME: Final = timedelta(days=60)
_PATH: Final = "/admission/pods/"
# A segment of a webhook's path must be a DNS subdomain: lower case.
_TOKEN: Final = re.compile(r"(\d{8})-[0-9a-f]{32,128}")
_ACCEPTED: Final = 2

Tokens = tuple[str, ...]
"""`<day of creation>-<random>`, newest first, at most two."""


def read_tokens(content: bytes) -> Tokens:
    """The tokens of several lines; invalid lines are skipped."""
    lines = content.decode("ascii", errors="replace").split()
    return tuple(line for line in lines if _made(line) is not None)[:_ACCEPTED]


def print_tokens(tokens: Tokens) -> bytes:
    """The content that `read_tokens` reads."""
    return "".join(f"{token}\n" for token in tokens).encode()


def renew(tokens: Tokens, now: datetime, random_bits: int) -> Tokens:
    """The tokens to accept from now on: the same, or a new one first if there is none or the newest is old.

    `random_bits` is a random number of `RANDOM_BITS` bits.
    """
    made = _made(tokens[0]) if tokens else None
    if made is not None and now - made < _LIFETIME:
        return tokens
    new = f"{now.astimezone(UTC):%Y%m%d}-{random_bits:0{RANDOM_BITS // 4}x}"
    return (new, *tokens[: _ACCEPTED - 1])


def accepts(tokens: Sequence[str], given: str) -> bool:
    """Whether `given` is one of `tokens`, in constant time."""
    read = given.encode("utf-8", errors="surrogatepass")
    # Every token is compared, also after a match.
    return sum(hmac.compare_digest(token.encode(), read) for token in tokens) > 0


def path_of(token: str) -> str:
    """The path that the webhook configuration names."""
    return _PATH + token


def token_of(path: str) -> str:
    """The token in a path of the webhook configuration; empty if there is none."""
    return path.removeprefix(_PATH) if path.startswith(_PATH) else ""


def without_tokens(text: str) -> str:
    """`text`, which may quote a path, with the tokens removed, for logs."""
    return _TOKEN.sub("<token>", text)


def _made(token: str) -> datetime | None:
    """The day a token was created; `None` if `token` is not a token."""
    match = _TOKEN.fullmatch(token)
    try:
        return datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC) if match else None
    except ValueError:
        return None
