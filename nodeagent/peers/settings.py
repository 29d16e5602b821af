"""Read the settings for the exchange of images between nodes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.env import BadSetting, number, text
from warmhook.localhosts import is_local_host

_HOST: Final = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:]+\])(?::\d{1,5})?", re.ASCII)
_RATE_MAX: Final = 10**12


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How this node gets blobs from others and from registries, and serves its own."""

    port: int = 9465
    """Of the server for other nodes; 0: this node neither serves nor asks others."""
    address: str = ""
    """The IP address that the server is bound to and other nodes connect to; empty: as with port 0."""
    token_file: Path = Path("/var/run/secrets/warmhook-peers/token")
    """The projected ServiceAccount token that this node shows to others."""
    bytes_per_second: int = 0
    """The most that this node sends to others; 0: no limit."""
    plain_http_registries: frozenset[str] = frozenset()
    """Hosts, with a port if they have one, that the agent reads over HTTP without TLS."""
    registry_ca_file: Path | None = None
    """Certificates that the agent trusts at registries besides those of the system."""

    @property
    def endpoint(self) -> str:
        """`address:port` as other nodes connect to it; empty: off."""
        if not self.port or not self.address:
            return ""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def read_peer_settings(environ: Mapping[str, str], *, allow_local: bool) -> PeerSettings:
    """The settings in `environ`. Raises `BadSetting`. `allow_local`: addresses of the node itself may be used."""
    default = PeerSettings()
    return PeerSettings(
        port=number(environ, "WARMHOOK_PEER_PORT", default.port, minimum=0, maximum=65535),
        address=_address(environ, allow_local=allow_local),
        token_file=Path(text(environ, "WARMHOOK_PEER_TOKEN_FILE", str(default.token_file))),
        bytes_per_second=number(environ, "WARMHOOK_PEER_RATE", default.bytes_per_second, minimum=0, maximum=_RATE_MAX),
        plain_http_registries=_hosts(environ),
        registry_ca_file=_ca_file(environ),
    )


def _address(environ: Mapping[str, str], *, allow_local: bool) -> str:
    """`WARMHOOK_PEER_ADDRESS`, else `HOST_IP` if other nodes can use it: nobody chose that one."""
    chosen = environ.get("WARMHOOK_PEER_ADDRESS", "")
    address = _usable(chosen or environ.get("HOST_IP", ""), allow_local=allow_local)
    if chosen and not address:
        form = "an IP address of this node that others can reach, such as 10.0.0.5, and not a local one"
        raise BadSetting(f"WARMHOOK_PEER_ADDRESS must be {form}: {chosen[:50]!r}")
    return address


def _usable(value: str, *, allow_local: bool) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return ""
    if address.is_unspecified or address.is_multicast or "%" in value:
        return ""
    literal = f"[{address}]" if address.version == 6 else str(address)
    return "" if is_local_host(literal) and not allow_local else str(address)


def _hosts(environ: Mapping[str, str]) -> frozenset[str]:
    hosts = [host.strip() for host in environ.get("WARMHOOK_PLAIN_HTTP_REGISTRIES", "").split(",")]
    for host in filter(None, hosts):
        if not _HOST.fullmatch(host):
            form = "hosts like registry.example.com:5000, separated by commas"
            raise BadSetting(f"WARMHOOK_PLAIN_HTTP_REGISTRIES must be {form}, not {host[:50]!r}")
    return frozenset(host.lower() for host in hosts if host)


def _ca_file(environ: Mapping[str, str]) -> Path | None:
    name = environ.get("WARMHOOK_REGISTRY_CA_FILE", "")
    if name and not Path(name).is_file():
        raise BadSetting(f"WARMHOOK_REGISTRY_CA_FILE must be a file with certificates in PEM form, not {name[:250]!r}")
    return Path(name) if name else None
