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
    of_pods = [(warmimage, warmimage.pod_origin) for warmimage in existing if warmimage.pod_origin is not None]
    runs: dict[tuple[str, str], dict[str, float]] = {}
    for warmimage, origin in of_pods:
        for owner in origin.owners:
            for container in owner.containers:
                images = runs.setdefault((owner.owner, container), {})
                at = owner.at.timestamp() if owner.at else _NEVER
                image = _run(warmimage)
                images[image] = max(images.get(image, _NEVER), at)
    newest = {
        slot: frozenset(sorted(images, key=lambda image: (images[image], image))[-_VERSIONS:])
        for slot, images in runs.items()
    }
    return [
        warmimage
        for warmimage, origin in of_pods
        if not origin.more
        and all(owner.containers for owner in origin.owners)
        and not any(
            _run(warmimage) in newest[owner.owner, name] for owner in origin.owners for name in owner.containers
        )
    ]


def _run(warmimage: WarmImage) -> str:
    return f"{warmimage.image}@{warmimage.digest}"
