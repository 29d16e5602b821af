"""Encode what a report says about peers: where its node serves images, and what it fetched from whom.

Nodes are hostile input: what cannot be read is as if it were not there.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from warmhook.hints import KEY_PATTERN

PEER_BYTES_MAX: Final = 512
"""Bytes of the annotation `PEER_ANNOTATION`."""
TRANSFERS_MAX: Final = 64
"""Transfers that a report names, the latest."""

_RATE_MAX: Final = 2**40
_HOSTS_MAX: Final = 4
_NUMBERS: Final = 5
_DIGITS_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class PeerReport:
    """Where the agent of a node serves images, and how fast it received some."""

    address: str
    """IP address and port: `10.0.0.5:9465`, `[fd00::5]:9465`."""
    key: str
    """SHA-256 over the SubjectPublicKeyInfo of its key, in base64url without padding."""
    rate: int = 0
    """Bytes per second of its last large transfer from a peer; 0: unknown."""
    registry_rates: Mapping[str, int] = field(default_factory=dict)
    """By host of a registry: an estimate of the bytes per second that it gives to all nodes together."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one node fetched for one line."""

    version: str
    """Of the line: 8 hex digits."""
    peer_kib: int = 0
    registry_kib: int = 0
    transfer_ms: int = 0
    unpack_ms: int = 0
    """Of the pull after the transfer; 0 until it has ended."""
    fallbacks: int = 0
    """Blobs that came from the registry because no parent gave them."""


def peer_address(text: str) -> tuple[str, int] | None:
    """IP address and port of a peer; `None` if that cannot be one."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return None
    if (address.version == 6) != bracketed or "%" in host or address.is_unspecified or address.is_multicast:
        return None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 2**16):
        return None
    return str(address), int(port)


def encode_peer(report: PeerReport) -> str:
    """JSON with sorted keys and no spaces."""
    fields: dict[str, Any] = {"a": report.address, "k": report.key}
    if report.rate:
        fields["b"] = report.rate
    if report.registry_rates:
        fields["r"] = dict(sorted(report.registry_rates.items())[:_HOSTS_MAX])
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    if len(text) > PEER_BYTES_MAX:
        fields.pop("r", None)
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return text


def read_peer(text: str) -> PeerReport | None:
    """What `encode_peer` wrote; `None` if it is something else."""
    if not text or len(text) > PEER_BYTES_MAX:
        return None
    try:
        fields = json.loads(text)
        address, key, rate, rates = fields["a"], fields["k"], fields.get("b", 0), fields.get("r", {})
        usable = isinstance(address, str) and isinstance(key, str) and isinstance(rates, dict)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not usable or peer_address(address) is None or not KEY_PATTERN.fullmatch(key):
        return None
    known = {host: value for host, value in list(rates.items())[:_HOSTS_MAX] if _is_rate(value)}
    return PeerReport(address, key, rate if _is_rate(rate) else 0, known)


def encode_transfers(transfers: Iterable[Transfer]) -> str:
    """One text for all; of more than `TRANSFERS_MAX` the last."""
    return ",".join(
        f"{each.version}:{each.peer_kib}:{each.registry_kib}:{each.transfer_ms}:{each.unpack_ms}:{each.fallbacks}"
        for each in list(transfers)[-TRANSFERS_MAX:]
    )


def read_transfers(text: str) -> dict[str, Transfer]:
    """What `encode_transfers` wrote, by version; what is unreadable is left out."""
    found: dict[str, Transfer] = {}
    for part in text.split(",", TRANSFERS_MAX)[:TRANSFERS_MAX]:
        version, *numbers = part.split(":")
        digits = all(each.isascii() and each.isdigit() and len(each) <= _DIGITS_MAX for each in numbers)
        if len(version) == 8 and len(numbers) == _NUMBERS and digits:
            found[version] = Transfer(version, *map(int, numbers))
    return found


def _is_rate(value: object) -> bool:
    return type(value) is int and 0 <= value <= _RATE_MAX
