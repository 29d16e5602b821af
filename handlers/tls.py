"""Serve the same application over TLS, with the certificate of the Secret `warmhook-tls`, whenever that changes.

New handshakes see the new certificate; connections that are open, and requests on them, go on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Final

import structlog

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes, KubernetesError, NotFound
from handlers.server import Server
from handlers.watch.certificates import SECRET
from warmhook.ports import Sleep

__all__ = ["Certificate", "TlsServer", "serve_tls"]

_log = structlog.get_logger()

_FIRST_LOOK_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 20.0

Certificate = tuple[bytes, bytes]
"""Certificate and key, in PEM."""


class TlsServer(Server):
    """uvicorn with a certificate that can be replaced while it serves."""

    def use(self, certificate: Certificate) -> None:
        """Show this certificate in all handshakes from now on. Raises `ssl.SSLError` where it is none."""
        if not self.config.loaded:
            self.config.load()
        if self.config.ssl is None:
            self.config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        # The ssl module reads certificates from files only; these are gone as soon as it has.
        with tempfile.TemporaryDirectory(prefix="warmhook-") as folder:
            chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
            for file, content in zip((chain, key), certificate, strict=True):
                file.touch(mode=0o600)
                file.write_bytes(content)
            self.config.ssl.load_cert_chain(chain, key)


async def serve_tls(
    server: TlsServer, listener: socket.socket, kubernetes: Kubernetes, namespace: str, *, sleep: Sleep
) -> None:
    """Serve as soon as there is a certificate, and follow its changes, until the server is told to exit."""
    used: Certificate | None = None
    while used is None:
        used = await _changed(server, None, kubernetes, namespace)
        if used is None:
            await sleep(_FIRST_LOOK_SECONDS)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(_follow(server, used, kubernetes, namespace, sleep), name="follow certificate")
        await server.serve(sockets=[listener])
        following.cancel()


async def _follow(server: TlsServer, used: Certificate, kubernetes: Kubernetes, namespace: str, sleep: Sleep) -> None:
    while True:
        await sleep(_LOOK_SECONDS)
        used = await _changed(server, used, kubernetes, namespace) or used


async def _changed(
    server: TlsServer, used: Certificate | None, kubernetes: Kubernetes, namespace: str
) -> Certificate | None:
    """The certificate that is shown from now on; `None` where there is no other that can be."""
    found = await _find(kubernetes, namespace)
    return found if found is not None and found != used and _use(server, found) else None


def _use(server: TlsServer, certificate: Certificate) -> bool:
    try:
        server.use(certificate)
    except (ssl.SSLError, OSError, ValueError) as error:
        _log.warning("certificate-unusable", secret=SECRET, problem=type(error).__name__)
        return False
    _log.info("certificate-used", secret=SECRET)
    return True


async def _find(kubernetes: Kubernetes, namespace: str) -> Certificate | None:
    try:
        data = (await kubernetes.get(paths.secrets(namespace, SECRET))).get("data") or {}
        return base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"])
    except (NotFound, KeyError, binascii.Error):
        return None
    except KubernetesError as error:
        _log.warning("certificate-not-read", secret=SECRET, problem=str(error))
        return None
