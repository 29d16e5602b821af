"""Recognise image hosts that are the node itself or next to it: loopback, link-local, cloud metadata.

A runtime that pulls from such a host sends requests for the author of the image name, with the address of the node.
Names are not resolved, so a DNS name of such an address is not recognised.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_NAMES: Final = frozenset(
    {
        "localhost",
        "ip6-localhost",
        "ip6-loopback",
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data.ec2.internal",
    }
)
_SUFFIXES: Final = (".localhost", ".localdomain")
# Metadata services outside the link-local ranges: AWS over IPv6, and the Pod Identity Agent of its EKS; Azure's
# WireServer; Google Cloud and Scaleway over IPv6; Alibaba Cloud; Oracle Cloud.
# https://docs.aws.amazon.com/eks/latest/userguide/pod-id-agent-setup.html
# https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
# https://cloud.google.com/compute/docs/metadata/querying-metadata
_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            "fd00:ec2::254",
            "fd00:ec2::23",
            "168.63.129.16",
            "fd20:ce::254",
            "fd00:42::42",
            "100.100.100.200",
            "192.0.0.192",
        ),
    )
)
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
_IPV4_MAX: Final = 2**32 - 1


def is_local_host(host: str) -> bool:
    """Whether `host`, as in an image reference with or without a port, is the node itself or link-local."""
    name = _without_port(host).rstrip(".").lower()
    if name in _NAMES or name.endswith(_SUFFIXES):
        return True
    address = _address(name)
    return address is not None and (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address in _METADATA
        or (address.version == 4 and int(address) >> 24 == 0)  # Linux connects 0.0.0.0/8 to itself
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in `name`; the IPv4 address if an IPv6 address embeds one."""
    if ":" not in name:
        return _ipv4(name)
    try:
        address = ipaddress.IPv6Address(name.partition("%")[0])
    except ValueError:
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if not address.is_loopback and not address.is_unspecified and any(address in network for network in _NAT64):
        return ipaddress.IPv4Address(int(address) & _IPV4_MAX)
    return address


def _ipv4(name: str) -> ipaddress.IPv4Address | None:
    """The address that inet_aton(3) reads: one to four parts, decimal, octal or hex, the last fills the rest."""
    parts = name.split(".")
    if len(parts) > 4:
        return None
    numbers = [_number(part) for part in parts]
    value = 0
    for place, number in enumerate(numbers):
        last = place == len(numbers) - 1
        bits = 8 * (5 - len(numbers)) if last else 8
        if number is None or number >= 1 << bits:
            return None
        value = value << bits | number
    return ipaddress.IPv4Address(value)


def _number(part: str) -> int | None:
    if len(part) > 32 or not part.isascii() or not part.isalnum():
        return None
    try:
        if part.startswith("0x"):
            return int(part[2:] or "0", 16)
        return int(part, 8 if part.startswith("0") else 10)
    except ValueError:
        return None
