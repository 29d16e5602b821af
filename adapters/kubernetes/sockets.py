"""Open sockets that detect when their other end is gone."""

from __future__ import annotations

import socket
from typing import Any, Final

# A load balancer that lost its state sends no answer, not even a reset: 30 seconds after the last sign of life the
# kernel ends the connection. Systems other than Linux lack some of these.
_TCP_OPTIONS: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}


def new_socket(address: Any) -> socket.socket:
    """A socket for an address from `getaddrinfo`: family, type, protocol and more."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
