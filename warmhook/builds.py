"""Decide which images are outdated: all but the newest builds of a repository, and old versions of owners of Pods.

The last push of a repository says which nodes will want its next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from warmhook.warmimages import WarmImage

_NEVER: Final = float("-inf")
# An image of several platforms is pushed part by part, sometimes from several machines, and its tag last of all.
_PARTS_SECONDS: Final = 3600
# More platforms and attestations than the images of the Docker Official Images have.
_PARTS_PER_BUILD: Final = 32
# Of each container of an owner: the running image, and that of a rollback.
_VERSIONS: Final = 2


def beyond(keep: int, pushed: Collection[WarmImage]) -> list[WarmImage]:
    """The WarmImages of one repository beyond its newest `keep` builds: a pure function of the set."""
    builds = _builds([warmimage for warmimage in pushed if warmimage.image.tag])
    over = [warmimage for build in builds[keep:] for warmimage in build]
    # The parts of an image are pushed before its tag: none is removed while its tag may still arrive.
    kept_since = min(map(_moment, builds[keep - 1]), default=_NEVER) - _PARTS_SECONDS if builds[keep - 1 :] else _NEVER
    parts = sorted((warmimage for warmimage in pushed if not warmimage.image.tag), key=_newest_last, reverse=True)
    return over + [
        part for rank, part in enumerate(parts) if rank >= keep * _PARTS_PER_BUILD or _moment(part) < kept_since
    ]


def last_pushes(warmimages: Iterable[WarmImage]) -> list[WarmImage]:
    """Of each repository of each policy the WarmImage of the last push. Images that exist for Pods do not count."""
    last: dict[tuple[str, str, str], WarmImage] = {}
    for warmimage in warmimages:
        if warmimage.pushed_at is None or warmimage.pod_origin is not None:
            continue
        of = warmimage.key.namespace, warmimage.policy_label, warmimage.image.canonical.name
        if of not in last or _moment(last[of]) < _moment(warmimage):
            last[of] = warmimage
    return list(last.values())


def _builds(tagged: Iterable[WarmImage]) -> list[list[WarmImage]]:
    """The WarmImages of each build, the newest build first.

    WarmImages of one build have the same digest, or were pushed within the same second: one build may push an image
    under several tags, and several images, such as `1.4` and `1.4-debug`.
    """
    builds: list[tuple[set[object], list[WarmImage]]] = []
    for warmimage in tagged:
        marks: set[object] = {warmimage.digest or warmimage.key.name}
        if warmimage.pushed_at is not None:
            marks.add(int(warmimage.pushed_at.timestamp()))
        same, builds = (
            [build for build in builds if build[0] & marks],
            [build for build in builds if not build[0] & marks],
        )
        members = [warmimage, *(member for _, others in same for member in others)]
        builds.append((marks.union(*(others for others, _ in same)), members))
    return sorted((members for _, members in builds), key=lambda build: max(map(_newest_last, build)), reverse=True)


def _moment(warmimage: WarmImage) -> float:
    return warmimage.pushed_at.timestamp() if warmimage.pushed_at else _NEVER


def _newest_last(warmimage: WarmImage) -> tuple[float, str]:
    return _moment(warmimage), warmimage.key.name


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
