"""Decide which builds of a repository stay: the newest ones, each with all its tags."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from warmhook.warmimages import WarmImage

_NEVER: Final = float("-inf")
# An image of several platforms is pushed part by part, sometimes from several machines, and its tag last of all.
_PARTS_SECONDS: Final = 3600
# More platforms and attestations than the images of the Docker Official Images have.
_PARTS_PER_BUILD: Final = 32


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
