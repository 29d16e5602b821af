"""Decide which images no current version of any owner's containers runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from warmhook.warmimages import WarmImage

__all__ = ["old_versions"]

_NEVER: Final = float("-inf")
# Of an owner's container: what it runs, and what a rollback would bring back.
_VERSIONS: Final = 2


def old_versions(existing: Iterable[WarmImage]) -> list[WarmImage]:
    """What Pods asked for and only older versions of their owners' containers run: two of each stay.

    Of one that has more owners than it remembers, nobody knows. Versions are counted by image: an owner may pin each of
    its Pods to another node, and then has several WarmImages of one image.
    """
    asked = [(warmimage, warmimage.pod_origin) for warmimage in existing if warmimage.pod_origin is not None]
    runs: dict[tuple[str, str], dict[str, float]] = {}
    for warmimage, its in asked:
        for asker in its.owners:
            for container in asker.containers:
                images, at = runs.setdefault((asker.owner, container), {}), asker.at.timestamp() if asker.at else _NEVER
                image = _run(warmimage)
                images[image] = max(images.get(image, _NEVER), at)
    newest = {
        slot: frozenset(sorted(images, key=lambda image: (images[image], image))[-_VERSIONS:])
        for slot, images in runs.items()
    }
    return [
        warmimage
        for warmimage, its in asked
        if not its.more
        and all(asker.containers for asker in its.owners)
        and not any(_run(warmimage) in newest[asker.owner, name] for asker in its.owners for name in asker.containers)
    ]


def _run(warmimage: WarmImage) -> str:
    return f"{warmimage.image}@{warmimage.digest}"
