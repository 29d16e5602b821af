"""A port is open to IPv6 and IPv4, and to IPv4 alone where the machine has no IPv6."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from adapters.listener import open_listener


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_one_port_answers_both_families() -> None:
    with open_listener(0) as listener:
        listener.listen()
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, listener.getsockname()[1]), 5).close()


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_listener_without_ipv6_is_open_to_ipv4(code: int) -> None:
    def new_socket(family: socket.AddressFamily, *more: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(code, "no IPv6")
        return socket.socket(family, *more)

    with open_listener(0, new_socket=new_socket) as listener:
        listener.listen()
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), 5).close()


def test_a_port_that_is_taken_is_an_error() -> None:
    with open_listener(0) as listener:
        listener.listen()
        with pytest.raises(OSError, match="in use"):
            open_listener(listener.getsockname()[1])
