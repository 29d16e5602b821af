"""Read the JWK set of a token signer from a file, or from a configured HTTPS address with a cache."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import httpx

from adapters.internal_urls import is_internal
from adapters.strictjson import decode

_FRESH_SECONDS: Final = 3600.0
# A token with an unknown key may be the first after a rotation, or an attacker's, so requests are this far apart.
_RETRY_SECONDS: Final = 60.0
_BODY_MAX: Final = 262_144


class FileKeys:
    """A JWK set in a file. It is read each time, because mounted files change."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self, key_id: str) -> str:  # noqa: ARG002 - the file has all keys
        return _key_set(await asyncio.to_thread(self._path.read_bytes), str(self._path))


class FetchedKeys:
    """A JWK set at an address, cached for an hour, and longer if the address does not answer."""

    def __init__(self, url: str, *, fetch: Callable[[str], Awaitable[str]], monotonic: Callable[[], float]) -> None:
        """`fetch` returns the body behind a URL and raises `OSError`. Raises `ValueError` unless `url` is https."""
        if not url.startswith("https://"):
            raise ValueError(f"{url!r}: keys are fetched by https:// only")
        self._url = url
        self._fetch = fetch
        self._monotonic = monotonic
        self._cached = ""
        self._requested: float | None = None
        self._failure = "not requested yet"
        self._lock = asyncio.Lock()

    async def read(self, key_id: str) -> str:
        async with self._lock:
            wait = _FRESH_SECONDS if _holds(self._cached, key_id) else _RETRY_SECONDS
            if self._requested is None or self._monotonic() - self._requested >= wait:
                self._requested = self._monotonic()
                try:
                    self._cached = _key_set(await self._fetch(self._url), self._url)
                except OSError as error:
                    self._failure = str(error)
            if not self._cached:
                raise OSError(f"keys at {self._url}: {self._failure}")
            return self._cached


async def fetch_text(url: str) -> str:
    """GET without redirects, within 2 seconds and 256 KiB. Raises `OSError`."""
    try:
        async with (
            asyncio.timeout(2),
            httpx.AsyncClient(follow_redirects=False, trust_env=not is_internal(url)) as client,
            client.stream("GET", url) as response,
        ):
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _BODY_MAX:
                    raise OSError(f"{url}: more than {_BODY_MAX} bytes")
            return body.decode()
    except (httpx.HTTPError, UnicodeDecodeError) as error:
        raise OSError(f"{url}: {str(error).partition(chr(10))[0]}") from error


def _key_set(content: bytes | str, where: str) -> str:
    """The text of a JWK set. Raises `OSError` for anything else, such as a proxy's error page."""
    try:
        decoded = decode(content)
    except ValueError as error:
        raise OSError(f"{where}: {error}") from None
    if not isinstance(decoded, dict) or not isinstance(keys := decoded.get("keys"), list) or not keys:
        raise OSError(f"{where}: no key set: an object with a list of keys is expected")
    return content.decode("utf-8-sig") if isinstance(content, bytes) else content


def _holds(key_set: str, key_id: str) -> bool:
    return bool(key_set) and json.dumps(key_id) in key_set
