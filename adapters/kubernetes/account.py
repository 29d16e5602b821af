"""Use the ServiceAccount of the Pod, whose files the kubelet replaces while the program runs."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from adapters.kubernetes.rest_config import BadKubeconfig, RestConfig, tls_context

_FRESH_SECONDS: Final = 10.0


class ServiceAccount:
    """The token and the CAs of the cluster, read again every 10 seconds at most.

    The age counts on the monotonic clock: a wall clock that is set back would leave an expired token in use. A file
    that is empty or cannot be read changes nothing: the previous token may stay valid for minutes.
    """

    def __init__(self, folder: Path, *, monotonic: Callable[[], float], trust: Callable[[str], None]) -> None:
        """`trust` gets each new version of the CAs, in PEM."""
        self._folder = folder
        self._monotonic = monotonic
        self._trust = trust
        self._read_at: float | None = None
        self._token = ""
        self._authorities = ""

    def token(self) -> str:
        """The current token; empty if none was ever read."""
        now = self._monotonic()
        if self._read_at is None or now - self._read_at >= _FRESH_SECONDS:
            self._read_at = now
            self._token = self._content("token") or self._token
            authorities = self._content("ca.crt")
            if authorities and authorities != self._authorities:
                self._authorities = authorities
                self._trust(authorities)
        return self._token

    def _content(self, name: str) -> str:
        try:
            return (self._folder / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""


def in_cluster_config(environ: Mapping[str, str], folder: Path, monotonic: Callable[[], float]) -> RestConfig:
    """The API server of the Pod's cluster; `folder` is that of the ServiceAccount. Raises `BadKubeconfig`."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT")
    if not port:
        raise BadKubeconfig("KUBERNETES_SERVICE_PORT is not set, although KUBERNETES_SERVICE_HOST is")
    _check(folder / "token", "token")
    _check(folder / "ca.crt", "certificate")
    try:
        tls = tls_context(folder / "ca.crt")
    except ssl.SSLError as error:
        raise BadKubeconfig(f"the ServiceAccount's certificate file holds no certificates ({error})") from error

    def trust(authorities: str) -> None:
        # Added to the trusted CAs: both are in use during a rotation.
        with contextlib.suppress(ssl.SSLError, ValueError):
            tls.load_verify_locations(cadata=authorities)

    account = ServiceAccount(folder, monotonic=monotonic, trust=trust)
    # Read now: from the first request on, a file that is empty for a moment leaves this token in use.
    account.token()
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return RestConfig(
        url,
        tls,
        lambda: f"Bearer {account.token()}",
        namespace=_namespace(folder),
        origin="the ServiceAccount of this Pod",
    )


def _namespace(folder: Path) -> str:
    """That of the Pod, as for kubectl."""
    try:
        return (folder / "namespace").read_text(encoding="ascii").strip() or "default"
    except (OSError, UnicodeDecodeError):
        return "default"


def _check(file: Path, what: str) -> None:
    try:
        if file.read_bytes().strip():
            return
        reason = "it is empty"
    except OSError as error:
        reason = error.strerror or str(error)
    named = f"the ServiceAccount's {what} file {str(file)!r}"
    raise BadKubeconfig(f"{named} cannot be used ({reason}): mount it, or set KUBECONFIG")
