"""Decide whether a URL is inside the cluster or on this machine, so that no proxy of the environment is used."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_internal(url: str) -> bool:
    """Whether the host of `url` is loopback, a Service, a name without a domain, or a non-public IP address.

    `HTTP_PROXY` is often set for a whole namespace, and `NO_PROXY` seldom names all of these: the proxy could not reach
    them, and would receive the tokens for them.
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        labels = host.split(".")
    # <name>.<namespace>.svc, with or without the domain of the cluster.
    return len(labels) == 1 or labels[-1] in {"local", "localhost", "svc"} or labels[2:3] == ["svc"]
