"""Gather the blobs of a repository that are pushed before the manifest of their image.

They are in an annotation of the WarmImage of the last push of the repository, so every handler knows them, and the
next push of the same tag removes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from warmhook.hints import BLOBS_MAX, Early, Hint
from warmhook.images import Reference, is_digest

EARLY_SECONDS: Final = 300
"""Nodes drop the blobs if no manifest follows within so many seconds after the last of them."""
SMALLEST_BYTES: Final = 1024 * 1024
"""A smaller blob is fetched so fast after the push that a write of each node costs more."""
BYTES_MAX: Final = 64 * 1024**3
"""Of all blobs of one repository together."""
_LONGEST_SECONDS: Final = EARLY_SECONDS + 300
"""Each blob makes the end a second later at least, and clocks of handlers differ. What ends later was not noted by one
of them, and would keep the disks of nodes full for ever."""
_TEXT_MAX: Final = 16_384
_LATEST: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class EarlyBlobs:
    """The blobs of one push that has not ended."""

    expires_at: int
    """Unix seconds. Each blob that is added makes it later, so it tells two states apart."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Digest to size in bytes, in the order of the push."""

    def lasts(self, now: float) -> bool:
        """Whether the push may still end; `now` in Unix seconds."""
        return now < self.expires_at <= now + _LONGEST_SECONDS

    @property
    def size_bytes(self) -> int:
        """Of all blobs together."""
        return sum(self.sizes.values())


def with_blobs(known: EarlyBlobs | None, pushed: Mapping[str, int], now: float) -> EarlyBlobs | None:
    """`known`, unless it has expired, and the blobs that were pushed since; `None` if none of them has to be added.

    What is beyond the limits is left out, as are blobs that are too small to matter.
    """
    current = known if known is not None and known.lasts(now) else None
    sizes = dict(current.sizes) if current is not None else {}
    before, total = len(sizes), sum(sizes.values())
    for digest, size_bytes in pushed.items():
        if digest not in sizes and size_bytes >= SMALLEST_BYTES:
            if len(sizes) == BLOBS_MAX or total + size_bytes > BYTES_MAX:
                break
            sizes[digest] = size_bytes
            total += size_bytes
    if len(sizes) == before:
        return None
    expires_at = int(now) + EARLY_SECONDS
    return EarlyBlobs(expires_at if current is None else max(expires_at, current.expires_at + 1), sizes)


def early_hints(
    blobs: EarlyBlobs, image: Reference, plan: Mapping[str, Hint | None], most_nodes: int
) -> dict[str, Early]:
    """What each node is told about blobs of the repository of `image`, by its name.

    `plan` has, of nodes that can fetch blobs, from where they would get the image; `None`: from the registry. Of more
    than `most_nodes` only those that read the registry are told: their writes cost little, and after the push the blobs
    stream from them.
    """
    whole = len(plan) <= most_nodes
    trees = any(hint is not None and hint.parents for hint in plan.values())
    seeds = sorted(name for name, hint in plan.items() if hint is None or not (hint.parents or hint.wait_seconds))
    names = plan if whole else seeds[:most_nodes] if trees else ()
    told = {}
    for name in names:
        hint = (plan[name] or Hint(0)) if whole else Hint(0, seeds=len(seeds))
        early = Early(blobs.expires_at, image.host, image.repository, blobs.sizes)
        told[name] = replace(early, parents=hint.parents, children=hint.children, seeds=hint.seeds)
    return told


def encode_early_blobs(early: EarlyBlobs) -> str:
    """The value of the annotation: JSON with one-letter keys."""
    return json.dumps({"e": early.expires_at, "b": early.sizes}, separators=(",", ":"))


def read_early_blobs(text: object) -> EarlyBlobs | None:
    """What `encode_early_blobs` wrote; `None` for anything else. A tenant may write the annotation."""
    if not isinstance(text, str) or not 0 < len(text) <= _TEXT_MAX:
        return None
    try:
        fields: Any = json.loads(text)
        expires_at, sizes = fields["e"], fields["b"]
        usable = type(expires_at) is int and 0 < expires_at < _LATEST and 0 < len(sizes) <= BLOBS_MAX
        usable = usable and all(_is_blob(*each) for each in sizes.items()) and sum(sizes.values()) <= BYTES_MAX
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return EarlyBlobs(expires_at, sizes) if usable else None


def _is_blob(digest: str, size_bytes: object) -> bool:
    return is_digest(digest) and type(size_bytes) is int and 0 < size_bytes <= BYTES_MAX
