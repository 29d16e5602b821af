"""Decide which images of Pods belong only to old versions of their owners."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from warmhook.warmimages import WarmImage

_NEVER: Final = float("-inf")
# Of each container of an owner: the running image, and that of a rollback.
_VERSIONS: Final = 2


def old_versions(existing: Iterable[WarmImage]) -> list[WarmImage]:
    """The WarmImages for Pods that only older versions of their owners' containers use: two of each stay.

    A WarmImage with more owners than it stores is never old. Versions are counted by image: an owner may pin each of
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
