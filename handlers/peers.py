"""Does a request come from this machine?"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

__all__ = ["is_local"]

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})


def is_local(request: Request) -> bool:
    """Whether its connection does; what a header says of its origin counts for nothing."""
    return request.client is not None and request.client.host in _LOOPBACK
