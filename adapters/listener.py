"""Open a TCP port: at every address for IPv6 and IPv4 at once, or at one address."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Final

# Errors of a kernel without IPv6: for the socket if the module is absent, for the bind if IPv6 is disabled.
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def open_listener_at(address: str, port: int) -> socket.socket:
    """A socket bound to `port` (0: a free one) at one IP address. The caller closes it. Raises `OSError`."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    return _bound(socket.socket, family, address, port)


def open_listener(port: int, *, new_socket: Callable[..., socket.socket] = socket.socket) -> socket.socket:
    """A socket bound to `port` (0: a free one) at every address of this machine, on which a server can listen.

    It has both families if the machine has IPv6, for single-stack and dual-stack clusters; otherwise only IPv4. The
    caller closes it. Raises `OSError` if the port is in use.
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
    # asyncio disables Nagle's algorithm only if the socket names its protocol; otherwise each answer takes 40 ms more.
    listener = new_socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # The default differs between distributions.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
    except BaseException:
        listener.close()
        raise
    return listener
