"""Open a TCP port for IPv6 and IPv4 at once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

__all__ = ["open_listener"]

# What a kernel without IPv6 answers: to the socket where the module is absent, to the bind where it is switched off.
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def open_listener(port: int, *, new_socket: Callable[..., socket.socket] = socket.socket) -> socket.socket:
    """A socket bound to `port` (0: a free one) at every address of this machine, on which a server can listen.

    It takes both families where the machine has IPv6, as in single-stack and dual-stack clusters; else IPv4 alone. The
    caller closes it. Raises `OSError` where the port is taken.
    """
    try:
        return _bound(new_socket, socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _bound(new_socket, socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - callers are other machines


def _bound(
    new_socket: Callable[..., socket.socket], family: socket.AddressFamily, address: str, port: int
) -> socket.socket:
    # Of sockets whose protocol is not named asyncio does not turn Nagle's algorithm off: 40 ms for each answer.
    listener = new_socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Distributions differ in the default.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
    except BaseException:
        listener.close()
        raise
    return listener
