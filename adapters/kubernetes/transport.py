"""Send requests to the API server. No other file uses the `kubernetes` library.

Only its kubeconfig reader and its REST client are used: plain JSON in and out costs a fraction of the generated API.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml

try:
    Path.home()
except RuntimeError:
    # The library reads it during its import. A user without a name has none if HOME is not set.
    os.environ["HOME"] = "/"

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_kube_config
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from adapters.internal import is_internal
from adapters.kubernetes.account import ServiceAccount
from adapters.kubernetes.sockets import new_socket
from warmhook.ports import Json, Response, Stream, Transport, Unreachable

__all__ = ["BadKubeconfig", "open_transport"]

_NONE: Mapping[str, str] = MappingProxyType({})
_POOL_SIZE = 256
"""Concurrent connections; every open watch holds one."""
_CONNECT_SECONDS = 10.0
_DEFAULT_KUBECONFIG = "~/.kube/config"
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Credentials that cannot be read now may be readable later.
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError, ConfigException)


class BadKubeconfig(ValueError):
    """No usable kubeconfig; the message says what to do."""


class _Rest(RESTClientObject):
    """The library's REST client, over connections that detect a lost peer."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=new_socket)


class _Pool:
    """`Transport` over the REST client of `kubernetes.aio`."""

    def __init__(self, client: Any, user_agent: str) -> None:
        self._client = client
        self._host: str = client.configuration.host.rstrip("/")
        self._user_agent = user_agent

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
        # The library reads `Content-Type` in exactly this spelling.
        sent = {"Accept": "application/json", "User-Agent": self._user_agent, "Content-Type": "application/json"}
        sent.update({name.title(): value for name, value in headers.items()})
        await self._client.update_params_for_auth(sent, [], ["BearerToken"], path, method, body)
        answer = await self._client.rest_client.request(method, url, headers=sent, body=body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

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

    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        timeout_seconds: float = 330,
    ) -> AbstractAsyncContextManager[Stream]:
        """GET `path` and read the answer as it arrives. Raises `Unreachable`."""
        return self._stream(path, query, headers, timeout_seconds)

    @asynccontextmanager
    async def _stream(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str], timeout_seconds: float
    ) -> AsyncIterator[Stream]:
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


async def _load(path: str | None, account: Path | None, configuration: Any) -> None:
    if account is not None:
        names = [str(account / name) for name in ("token", "ca.crt")]
        InClusterConfigLoader(names[0], names[1], try_refresh_token=False).load_and_set(configuration)
        return
    await load_kube_config(_existing(path), client_configuration=configuration, persist_config=False)


def _follow_account(folder: Path, monotonic: Callable[[], float], client: Any) -> None:
    """Use the current token and CAs of the files for each request and for new connections."""

    def trust(authorities: str) -> None:
        # Added to the trusted CAs: both are in use during a rotation.
        with contextlib.suppress(ssl.SSLError, ValueError):
            client.rest_client.ssl_context.load_verify_locations(cadata=authorities)

    account = ServiceAccount(folder, monotonic=monotonic, trust=trust)

    def refresh(configuration: Any) -> None:
        if token := account.token():
            configuration.api_key["BearerToken"] = f"Bearer {token}"

    client.configuration.refresh_api_key_hook = refresh


def _proxy(url: str, *, in_cluster: bool) -> str | None:
    """The proxy that the environment names for this server; `None` for a direct connection.

    Within a cluster it is always `None`. From outside, a private address may be behind a proxy, as for kubectl.
    """
    if in_cluster and is_internal(url):
        return None
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _existing(path: str | None) -> str:
    files = [Path(part).expanduser() for part in (path or _DEFAULT_KUBECONFIG).split(os.pathsep) if part]
    found = [str(file) for file in files if file.is_file()]
    if not found:
        named = ", ".join(repr(str(file)) for file in files)
        raise BadKubeconfig(f"no kubeconfig at {named}: set KUBECONFIG to the file of your cluster")
    return os.pathsep.join(found)


@asynccontextmanager
async def open_transport(
    kubeconfig: str | None,
    *,
    user_agent: str = "warmhook",
    service_account: Path = _SERVICE_ACCOUNT,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Transport]:
    """A pool of authenticated connections, closed on leaving.

    `kubeconfig` is a path or a list of them; `None` means the ServiceAccount of the Pod, outside a Pod
    `~/.kube/config`. Raises `BadKubeconfig`.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = _POOL_SIZE
    account = service_account if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST") else None
    try:
        await _load(kubeconfig, account, configuration)
    except (ConfigException, OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        where = repr(kubeconfig) if kubeconfig else "of this environment"
        reason = " ".join(str(error).split())
        raise BadKubeconfig(f"the kubeconfig {where} cannot be used ({reason}): check it with kubectl") from error
    if urlsplit(configuration.host).username is not None:
        # Otherwise it would be in every message about that server.
        raise BadKubeconfig(
            "the URL of the server in the kubeconfig has a user name: put it, and the password, under users"
        )
    # By default aiohttp looks for proxies, and for a ~/.netrc in a thread, at each request: a third of its cost.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.proxy = configuration.proxy or _proxy(configuration.host, in_cluster=account is not None)
    async with ApiClient(configuration) as client:
        client.rest_client = _Rest(configuration)
        if account is not None:
            _follow_account(account, monotonic, client)
        yield _Pool(client, user_agent)
        # Lets aiohttp close its sockets before the loop may end.
        await asyncio.sleep(0)
