"""Make what Warmhook is compared with: requests by aiohttp alone, and an endpoint that does next to nothing.

`python -m tests.bench.bare PORT` serves the endpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ssl
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvicorn
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["BARE_SECRET", "open_bare"]

BARE_SECRET = b"bench"


@contextlib.asynccontextmanager
async def open_bare(kubeconfig: str, *, connections: int) -> AsyncIterator[aiohttp.ClientSession]:
    """An aiohttp session on the API server, with the kubeconfig's certificates and token and nothing else."""
    configuration = Configuration()
    await load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
    headers = {}
    if token := (configuration.api_key or {}).get("BearerToken"):
        headers["Authorization"] = token
    connector = aiohttp.TCPConnector(limit=connections, ssl=_tls(configuration))
    async with aiohttp.ClientSession(configuration.host.rstrip("/"), connector=connector, headers=headers) as session:
        yield session


def _tls(configuration: Configuration) -> ssl.SSLContext | bool:
    if not configuration.host.startswith("https"):
        return True
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _endpoint(request: Request) -> Response:
    body = await request.body()
    expected = hmac.new(BARE_SECRET, body, hashlib.sha256).hexdigest()
    given = request.headers.get("x-signature", "")
    return Response(status_code=202 if hmac.compare_digest(expected, given) else 401)


def main(port: int) -> None:
    """Serve with uvicorn as `web` does: uvloop, httptools, no access log."""
    app = Starlette(routes=[Route("/webhooks/{source}", _endpoint, methods=["POST"])])
    uvicorn.run(app, port=port, log_config=None, access_log=False, server_header=False, lifespan="off")


if __name__ == "__main__":
    main(int(sys.argv[1]))
