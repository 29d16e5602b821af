"""Sum up how the nodes of a WarmImage got its image, for `status.distribution`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from warmhook.peers import Transfer

_KIB: Final = 1024
_LONGEST_SECONDS: Final = 86400
"""A node that claims more does not decide what the slowest one took."""
_LARGEST_BYTES: Final = 2**40
"""Of an image whose size no registry has told."""
_MANY: Final = 5
"""If more than one of so many nodes fell back, the cause is between the nodes and not one of them."""


class Verdict(NamedTuple):
    """What the condition `Distributed` says."""

    holds: bool
    reason: str
    message: str


def sum_up(
    before: Mapping[str, Any], digest: str, size_bytes: int, transfers: Collection[Transfer]
) -> dict[str, Any] | None:
    """`status.distribution` of a status that was `before`, for the image with that digest; `None` if there is none.

    `size_bytes` are those of its layers, 0 if unknown. No node counts for more than twice as much: it may lie.
    Agents report a transfer for an hour after its end, so a figure about one digest never falls. Every field is there:
    a merge patch keeps those that it does not name.
    """
    known = before.get("distribution") or {}
    earlier = known if known.get("digest") == digest else {}
    if not digest or not (earlier or transfers):
        return None
    most = 2 * (size_bytes or _LARGEST_BYTES)
    found = {
        "nodes": len(transfers),
        "seeds": sum(each.registry_kib > 0 and not each.fallbacks for each in transfers),
        "fallbacks": sum(each.fallbacks > 0 for each in transfers),
        "bytesFromPeers": sum(min(_KIB * each.peer_kib, most) for each in transfers),
        "bytesFromRegistry": sum(min(_KIB * each.registry_kib, most) for each in transfers),
        "slowestTransferSeconds": _slowest(each.transfer_ms for each in transfers),
        "slowestUnpackSeconds": _slowest(each.unpack_ms for each in transfers),
    }
    return {"digest": digest, **{name: max(value, earlier.get(name, 0)) for name, value in found.items()}}


def judge(found: Mapping[str, Any], desired: int) -> Verdict:
    """Whether the nodes in `status.distribution` got the image as planned; `desired` nodes should hold it."""
    nodes, fallbacks = found["nodes"], found["fallbacks"]
    if _MANY * fallbacks > max(nodes, desired):
        message = f"{fallbacks} of {nodes} nodes fell back to the registry: is port 9465 open between nodes?"
        return Verdict(False, "FellBack", message)
    return Verdict(True, "AsPlanned", f"{nodes} nodes, {fallbacks} of them fell back to the registry")


def _slowest(milliseconds: Iterable[int]) -> int:
    """In whole seconds, rounded up."""
    return min(-(-max(milliseconds, default=0) // 1000), _LONGEST_SECONDS)
