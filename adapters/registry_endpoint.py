"""Send requests to one registry over HTTP: authentication, redirects, limits, and errors as values.

OCI distribution specification (https://github.com/opencontainers/distribution-spec/blob/main/spec.md) and token
authentication (https://distribution.github.io/distribution/spec/auth/token/). Credentials go to the registry itself and
to the realm that it names, never to the target of a redirect.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from adapters.clock import Clock
from adapters.internal_urls import is_internal
from adapters.registry_settings import EndpointSettings
from warmhook import __version__
from warmhook.images import DOCKER_HUB
from warmhook.localhosts import is_local_host
from warmhook.resolutions import ResolveProblem, Unresolved
from warmhook.timestamps import parse_retry_after

_TIMEOUT: Final = httpx.Timeout(5.0, connect=3.0)
_CONNECTIONS: Final = httpx.Limits(max_connections=8, max_keepalive_connections=2)
_REDIRECTS_MAX: Final = 3
_TOKEN_BODY_MAX: Final = 256 * 1024
_TOKENS_MAX: Final = 1000
_PIECE_BYTES: Final = 256 * 1024
# The token specification's default; and the least that it says a token lives.
_TOKEN_SECONDS: Final = 60.0
_TOKEN_MARGIN_SECONDS: Final = 10.0
_TOKEN_LONGEST_SECONDS: Final = 3600.0
_PAUSE_SECONDS: Final = 60.0
_PAUSE_LONGEST_SECONDS: Final = 3600.0

_CHALLENGE: Final = re.compile(r"(?i)(?:^|,)\s*(bearer|basic)\b")
_PARAMETER: Final = re.compile(r'([a-zA-Z]+)\s*=\s*"([^"]*)"')
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:]+")
_DOCKER_HUB_API: Final = "registry-1.docker.io"


class Failed(Exception):
    """A request has no usable answer."""

    def __init__(
        self,
        problem: ResolveProblem,
        message: str,
        retry_after_seconds: float | None = None,
        *,
        answered: bool = False,
    ) -> None:
        super().__init__(message)
        self.unresolved = Unresolved(problem, message, retry_after_seconds, answered)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with status 200."""

    headers: httpx.Headers
    body: bytes


@dataclass(eq=False)
class Endpoint:
    """One registry. Every method raises `Failed` if there is no usable answer."""

    settings: EndpointSettings
    clock: Clock
    transport: httpx.AsyncBaseTransport | None = None
    """Replaces the network in tests."""
    _client: httpx.AsyncClient | None = None
    _trusted: tuple[int, int] | None = None
    """Time and size of the CA file that the client has read."""
    _tokens: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By scope, with the monotonic time until which they are used."""
    _basic: bool = False
    """Whether the registry wants user name and password in each request."""
    _paused_until: float = float("-inf")

    @property
    def origin(self) -> httpx.URL:
        """Scheme, host and port."""
        host = _DOCKER_HUB_API if self.settings.host == DOCKER_HUB else self.settings.host
        return httpx.URL(f"{'http' if self.settings.plain_http else 'https'}://{host}")

    async def get(self, path: str, *, repository: str, limit_bytes: int, accept: str, method: str = "GET") -> Answer:
        """Request a path below the origin, with a token for pulling from the repository if one is wanted."""
        with self._translated():
            async with self._request(method, path, repository, {"accept": accept}) as response:
                return Answer(response.headers, await self._read(response, limit_bytes if method == "GET" else 0))

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, repository: str, offset: int, accept: str
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Content from `offset` on as it comes, and how many bytes are announced.

        The bytes raise `Failed` too, also if none comes for long.
        """
        headers = {"accept": accept} | ({"range": f"bytes={offset}-"} if offset else {})
        async with contextlib.AsyncExitStack() as opened:
            with self._translated():
                response = await opened.enter_async_context(self._request("GET", path, repository, headers))
            length = response.headers.get("content-length", "")
            if response.status_code != (206 if offset else 200) or not length.isdecimal():
                raise Failed(
                    "Unusable", f"{self.settings.host}: gives no parts of blobs, or does not say how long they are"
                )
            yield int(length), self._pieces(response)

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, repository: str, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """A good answer, whose body was not read yet."""
        url, scope = self.origin.join(path), f"repository:{repository}:pull"
        for attempt in (1, 2):
            authorization = self._authorization(scope)
            response = await self._follow(method, url, headers, authorization)
            # The target of a redirect may neither name a realm, which would get the credentials, nor ask for a pause.
            own = _same_origin(response.request.url, self.origin)
            if response.status_code != 401 or attempt == 2 or not own:
                break
            await response.aclose()
            if authorization:
                self._tokens.pop(scope, None)
            await self._log_in(response.headers.get_list("www-authenticate"), scope)
        try:
            self._check(response, pauses=own)
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise Failed("Unusable", f"{self.settings.host}: a compressed answer, which was not asked for")
            yield response
        finally:
            await response.aclose()

    # --- authentication ---

    def _authorization(self, scope: str) -> str:
        token, until = self._tokens.get(scope, ("", 0.0))
        if token and self.clock.monotonic() < until:
            return f"Bearer {token}"
        return self._basic_header() if self._basic else ""

    def _basic_header(self) -> str:
        try:
            login = self.settings.login()
        except (OSError, ValueError) as error:
            raise Failed("Unauthorized", f"{self.settings.host}: the credentials cannot be read") from error
        return "" if login is None else "Basic " + base64.b64encode(":".join(login).encode()).decode()

    async def _log_in(self, challenges: list[str], scope: str) -> None:
        kind, parameters = _challenge(challenges)
        if kind == "basic":
            if not self._basic_header():
                raise Failed("Unauthorized", f"{self.settings.host}: needs a user name and a password")
            self._basic = True
        elif kind == "bearer":
            token, seconds = await self._fetch_token(parameters, scope)
            while len(self._tokens) >= _TOKENS_MAX:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[scope] = token, self.clock.monotonic() + seconds
        else:
            raise Failed("Unauthorized", f"{self.settings.host}: answers 401 without a way to log in that is known")

    async def _fetch_token(self, parameters: dict[str, str], scope: str) -> tuple[str, float]:
        """A token, and for how many seconds it is used."""
        realm = self._allowed(parameters.get("realm", ""), "the realm of its tokens")
        query = {"service": parameters["service"]} if "service" in parameters else {}
        # Over plain HTTP anybody on the way could name a realm.
        trusted = not self.settings.plain_http or _same_origin(realm, self.origin)
        authorization = self._basic_header() if trusted else ""
        url = realm.copy_merge_params(query | {"scope": scope})
        response = await self._send("GET", url, {"accept": "application/json"}, authorization)
        try:
            self._check(response)
            body = await self._read(response, _TOKEN_BODY_MAX)
        finally:
            await response.aclose()
        try:
            fields = json.loads(body)
            token = fields.get("token") or fields.get("access_token")
            seconds = float(fields.get("expires_in") or _TOKEN_SECONDS)
            header_safe = isinstance(token, str) and token.isascii() and token.isprintable() and token != ""
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            header_safe = False
        if not header_safe:
            raise Failed("Unusable", f"{self.settings.host}: its realm gives no token")
        return token, min(max(seconds, _TOKEN_SECONDS) - _TOKEN_MARGIN_SECONDS, _TOKEN_LONGEST_SECONDS)

    # --- requests ---

    async def _follow(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], authorization: str
    ) -> httpx.Response:
        """The answer behind a few redirects. Only the registry itself gets the authorization."""
        for _ in range(_REDIRECTS_MAX + 1):
            sent = authorization if _same_origin(url, self.origin) else ""
            response = await self._send(method, url, headers, sent)
            if not response.has_redirect_location:
                return response
            await response.aclose()
            url = self._allowed(str(url.join(response.headers["location"])), "a redirect")
        raise Failed("Unusable", f"{self.settings.host}: more than {_REDIRECTS_MAX} redirects")

    def _allowed(self, text: str, what: str) -> httpx.URL:
        """An address that the registry named: https, or the registry itself, and nothing near this machine."""
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, ValueError) as error:
            raise Failed("Unusable", f"{self.settings.host}: {what} is no URL") from error
        own = _same_origin(url, self.origin)
        if not own and (url.scheme != "https" or not _HOST.fullmatch(url.host) or is_local_host(_host(url))):
            raise Failed("Unusable", f"{self.settings.host}: {what} is neither https nor the registry itself")
        return url.copy_with(username=None, password=None, fragment=None)

    async def _send(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], authorization: str
    ) -> httpx.Response:
        if self.clock.monotonic() < self._paused_until:
            pause = self._paused_until - self.clock.monotonic()
            raise Failed("RateLimited", f"{self.settings.host}: asked for a pause", pause)
        sent = {"accept-encoding": "identity", "user-agent": f"warmhook/{__version__}", **headers}
        if authorization:
            sent["authorization"] = authorization
        # Built without the client, which would add the cookies of earlier answers.
        request = httpx.Request(method, url, headers=sent, extensions={"timeout": _TIMEOUT.as_dict()})
        return await self._open().send(request, stream=True)

    async def _read(self, response: httpx.Response, limit_bytes: int) -> bytes:
        """The body."""
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > limit_bytes:
                raise Failed("Unusable", f"{self.settings.host}: an answer of more than {limit_bytes} bytes")
        return bytes(body)

    async def _pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """The body in pieces of `_PIECE_BYTES` or a little more; httpx takes twice as long to make them of one size."""
        parts, size = list[bytes](), 0
        with self._translated():
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size >= _PIECE_BYTES:
                    yield b"".join(parts)
                    parts.clear()
                    size = 0
        if parts:
            yield b"".join(parts)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise `Failed` for errors of the network."""
        try:
            yield
        except (httpx.TimeoutException, TimeoutError) as error:
            raise Failed("Timeout", f"{self.settings.host}: no answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError) as error:
            raise Failed("Network", f"{self.settings.host}: {type(error).__name__}") from error

    def _check(self, response: httpx.Response, *, pauses: bool = True) -> None:
        """Raise `Failed` unless the status is 200 or 206; after a 429 nothing is asked for a while, if it `pauses`."""
        status, host = response.status_code, self.settings.host
        if status in (200, 206):
            return
        if status == 429:
            asked = parse_retry_after(response.headers.get("retry-after"))
            pause = min(_PAUSE_SECONDS if asked is None else max(asked, 1.0), _PAUSE_LONGEST_SECONDS)
            if pauses:
                self._paused_until = self.clock.monotonic() + pause
            raise Failed("RateLimited", f"{host}: too many requests", pause)
        if status in (401, 403):
            raise Failed("Unauthorized", f"{host}: answered {status}; look at its credentials in the configuration")
        if status == 404:
            raise Failed("NotFound", f"{host}: does not know this tag or digest")
        problem: ResolveProblem = "Network" if status >= 500 or status == 408 else "Unusable"
        raise Failed(problem, f"{host}: answered {status}", answered=True)

    def _open(self) -> httpx.AsyncClient:
        ca_file = self.settings.ca_file
        trusted = self._trusted
        if ca_file is not None:
            try:
                found = ca_file.stat()
                trusted = (found.st_mtime_ns, found.st_size)
            except OSError:  # it is being replaced
                pass
        if self._client is None or trusted != self._trusted:
            context: ssl.SSLContext | bool = True
            if ca_file is not None:
                context = ssl.create_default_context()
                context.load_verify_locations(ca_file)
            # The client before goes with its last request.
            self._client = httpx.AsyncClient(
                verify=context,
                trust_env=not is_internal(str(self.origin)),
                limits=_CONNECTIONS,
                timeout=_TIMEOUT,
                transport=self.transport,
            )
            self._trusted = trusted
        return self._client


def _challenge(headers: list[str]) -> tuple[str, dict[str, str]]:
    """The kind of the challenge, `bearer` before `basic`, with its parameters; empty if there is none."""
    found: dict[str, dict[str, str]] = {}
    for header in headers:
        text = header[:4096]
        marks = list(_CHALLENGE.finditer(text))
        for mark, after in zip(marks, [*marks[1:], None], strict=False):
            part = text[mark.end() : after.start() if after else len(text)]
            found.setdefault(mark[1].lower(), {name.lower(): value for name, value in _PARAMETER.findall(part)})
    kind = next((kind for kind in ("bearer", "basic") if kind in found), "")
    return kind, found.get(kind, {})


def _same_origin(url: httpx.URL, origin: httpx.URL) -> bool:
    return (url.scheme, url.host, _port(url)) == (origin.scheme, origin.host, _port(origin))


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _host(url: httpx.URL) -> str:
    return f"[{url.host}]" if ":" in url.host else url.host
