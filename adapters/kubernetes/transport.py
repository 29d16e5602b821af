"""Send requests to the API server over HTTP, plain JSON in and out."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from adapters.internal_urls import is_internal
from adapters.kubernetes.account import in_cluster_config
from adapters.kubernetes.rest_config import BadKubeconfig, RestConfig
from warmhook.ports import Json, Response, Stream, Transport, Unreachable

__all__ = ["BadKubeconfig", "load_rest_config", "new_socket", "open_pool", "open_transport"]

_NONE: Mapping[str, str] = MappingProxyType({})
POOL_SIZE: Final = 512
"""Concurrent connections; every open watch holds one, and a request waits if there is none left."""
_CONNECT_SECONDS = 10.0
_READ_BUFFER: Final = 2**21
"""Objects are larger than aiohttp's own buffer."""
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Credentials that cannot be read now may be readable later.
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError)
# A load balancer that lost its state sends no answer, not even a reset: 30 seconds after the last sign of life the
# kernel ends the connection. Systems other than Linux lack some of these.
_TCP_OPTIONS: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}


class _Pool:
    """`Transport` over an aiohttp session."""

    def __init__(self, session: aiohttp.ClientSession, config: RestConfig, user_agent: str) -> None:
        self._session, self._config, self._host = session, config, config.host
        self._headers = {"Accept": "application/json", "User-Agent": user_agent, "Content-Type": "application/json"}
        # Only if it is set: aiohttp would use even an empty name for the certificate.
        self._options: dict[str, Any] = {"proxy": config.proxy} if config.proxy else {}
        if config.server_name:
            self._options["server_hostname"] = config.server_name

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Json | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        url = f"{self._host}{path}"
        if query:
            url += f"?{urlencode(query)}"
        sent = self._headers | {name.title(): value for name, value in headers.items()}
        if authorization := self._config.authorization():
            sent["Authorization"] = authorization
        data = None if body is None else json.dumps(body)
        return await self._session.request(method, url, headers=sent, data=data, timeout=timeout, **self._options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        body: Json | None = None,
        timeout_seconds: float = 10,
    ) -> Response:
        """Send `body` as JSON and return the answer. Raises `Unreachable`."""
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        try:
            response = await self._send(method, path, query, headers, body, timeout)
            async with response:
                content = await response.read()
        except _BROKEN as error:
            raise _unreachable(self._host, error, timeout_seconds) from error
        return Response(response.status, _lower(response), content)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        timeout_seconds: float = 330,
    ) -> AsyncIterator[Stream]:
        """GET `path` and read the answer as it arrives. Raises `Unreachable`."""
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        try:
            response = await self._send("GET", path, query, headers, None, timeout)
        except _BROKEN as error:
            raise _unreachable(self._host, error, timeout_seconds) from error
        try:
            yield Stream(response.status, _lower(response), _lines(self._host, response, timeout_seconds))
        finally:
            response.close()


def _lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _unreachable(host: str, error: BaseException, timeout_seconds: float) -> Unreachable:
    if isinstance(error, aiohttp.ClientPayloadError):
        # Its own message is about transfer encodings.
        return Unreachable(f"the API server {host} broke off in the middle of an answer")
    if isinstance(error, TimeoutError) and not str(error):
        return Unreachable(f"the API server {host} gave no answer within {timeout_seconds:g} seconds")
    return Unreachable(f"the API server {host} gave no answer: {str(error) or type(error).__name__}")


async def _lines(host: str, response: aiohttp.ClientResponse, timeout_seconds: float) -> AsyncIterator[bytes]:
    """The lines of a body, however long; aiohttp's own line reader stops at its buffer's size."""
    pending: list[bytes] = []
    try:
        async for chunk in response.content.iter_any():
            first, *rest = chunk.split(b"\n")
            pending.append(first)
            for part in rest:
                if line := b"".join(pending):
                    yield line
                pending = [part]
    except _BROKEN as error:
        raise _unreachable(host, error, timeout_seconds) from error
    if line := b"".join(pending):
        yield line


def _proxy(url: str, *, in_cluster: bool) -> str | None:
    """The proxy that the environment names for this server; `None` for a direct connection.

    Within a cluster it is always `None`. From outside, a private address may be behind a proxy, as for kubectl.
    """
    if in_cluster and is_internal(url):
        return None
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


@asynccontextmanager
async def open_transport(
    kubeconfig: str | None,
    *,
    user_agent: str = "warmhook",
    service_account: Path = _SERVICE_ACCOUNT,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Transport]:
    """A pool of authenticated connections, closed on leaving.

    `kubeconfig` is a path or a list of them; `None` means the Pod's own ServiceAccount, outside a Pod `~/.kube/config`.
    Raises `BadKubeconfig`.
    """
    config = await load_rest_config(kubeconfig, service_account=service_account, monotonic=monotonic)
    async with open_pool(config, user_agent) as transport:
        yield transport


async def load_rest_config(
    kubeconfig: str | None,
    *,
    context: str | None = None,
    service_account: Path = _SERVICE_ACCOUNT,
    monotonic: Callable[[], float] = time.monotonic,
) -> RestConfig:
    """The server that `open_transport` connects to; `context` is one of the kubeconfig, `None` its current one.

    Raises `BadKubeconfig`.
    """
    in_cluster = kubeconfig is None and context is None and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    if in_cluster:
        config = in_cluster_config(os.environ, service_account, monotonic)
    else:
        # Imported here: a Pod has no kubeconfig.
        from adapters.kubernetes.kubeconfig import load_kubeconfig

        config = await load_kubeconfig(kubeconfig, context)
    if urlsplit(config.host).username is not None:
        # Otherwise it would be in every message about that server.
        raise BadKubeconfig(
            "the URL of the server in the kubeconfig has a user name: put it, and the password, under users"
        )
    return replace(config, proxy=config.proxy or _proxy(config.host, in_cluster=in_cluster))


@asynccontextmanager
async def open_pool(config: RestConfig, user_agent: str) -> AsyncIterator[Transport]:
    """Connections to the server of `config`, closed on leaving."""
    tls = True if config.tls is None else config.tls
    connector = aiohttp.TCPConnector(limit=POOL_SIZE, ssl=tls, socket_factory=new_socket)
    # Left to itself aiohttp looks for proxies, and for a ~/.netrc in a thread, at each request: a third of its cost.
    async with aiohttp.ClientSession(connector=connector, trust_env=False, read_bufsize=_READ_BUFFER) as session:
        yield _Pool(session, config, user_agent)
    # Lets aiohttp close its sockets before the loop may end.
    await asyncio.sleep(0)


def new_socket(address: Any) -> socket.socket:
    """A socket for an address from `getaddrinfo`: family, type, protocol and more."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
