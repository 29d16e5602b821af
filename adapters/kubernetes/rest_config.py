"""Describe an API server and how a client authenticates to it, as client-go's `rest.Config` does."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class BadKubeconfig(ValueError):
    """No usable configuration of a cluster; the message says what to do."""


@dataclass(frozen=True, slots=True)
class RestConfig:
    """Where the server is, and what every request to it carries."""

    host: str
    """The server's URL, without a slash at its end."""
    tls: ssl.SSLContext | None
    """`None` for plain HTTP."""
    authorization: Callable[[], str]
    """The value of the header for one request; empty: none."""
    server_name: str | None = None
    """The name in the server's certificate, if it is not the host's."""
    proxy: str | None = None
    """The URL of an HTTP proxy; `None`: the configuration names none."""
    namespace: str = "default"
    """Where commands look for objects unless they are told otherwise."""
    origin: str = ""
    """For people: which context of which file this is."""


def tls_context(
    authorities: str | Path | None, certificate: str | Path | None = None, key: str | Path | None = None
) -> ssl.SSLContext:
    """Trust `authorities` (a file; `None`: the system's) and present `certificate`. Raises `OSError`."""
    context = ssl.create_default_context(cafile=authorities)
    if certificate:
        context.load_cert_chain(certificate, key)
    return context
