"""Read the repositories that WarmImages belong to, in as few lists as possible."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping

from adapters.kubernetes.spec import InvalidObject
from handlers.reconcile.objects import Repository, WarmImages, repository_of
from handlers.reconcile.reader import MAX_GETS, Reader
from warmhook.api import POLICY_LABEL, REPOSITORY_LABEL
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey, WarmImage


async def read_repositories(
    reader: Reader, keys: Collection[ObjectKey], not_older_than: str, seen: Mapping[ObjectKey, Object]
) -> tuple[WarmImages, dict[Repository, list[WarmImage]]]:
    """These WarmImages, and all WarmImages of the repositories that they belong to.

    `not_older_than` is a version of WarmImages. The labels of an object in `seen` say which list shows the WarmImage. A
    WarmImage that is not in that list is read by itself. Its image decides which repository it belongs to.
    """
    if len(keys) > MAX_GETS:
        everything = await reader.warmimages(not_older_than=not_older_than)
        found = _among(keys, [everything])
        repositories = {repository: list[WarmImage]() for repository in _repositories(found)}
        for warmimage in everything.usable.values():
            if (repository := repository_of(warmimage)) in repositories:
                repositories[repository].append(warmimage)
        return found, repositories
    lists: dict[Repository, WarmImages] = {}

    async def read(repositories: Collection[Repository]) -> None:
        new = [repository for repository in repositories if repository not in lists]
        reading = (reader.warmimages_of_repository(repository, not_older_than=not_older_than) for repository in new)
        lists.update(zip(new, await asyncio.gather(*reading), strict=True))

    await read(list(filter(None, {_repository_seen(key, seen[key]) for key in keys if key in seen})))
    listed = _among(keys, lists.values())
    found = await reader.warmimages_of(set(keys) - listed.usable.keys() - listed.unusable.keys())
    found = _among(keys, [found, *lists.values()])
    await read(_repositories(found))
    return found, {repository: list(warmimages.usable.values()) for repository, warmimages in lists.items()}


def _repository_seen(key: ObjectKey, obj: Object) -> Repository | None:
    """The repository by the labels that the object had when it was seen; `None` if no policy made it."""
    labels = obj["metadata"].get("labels") or {}
    policy, label = labels.get(POLICY_LABEL), labels.get(REPOSITORY_LABEL)
    return Repository(policy, key.namespace, label) if policy and label else None


def _among(keys: Collection[ObjectKey], lists: Iterable[WarmImages]) -> WarmImages:
    """Those of these WarmImages that are in one of the lists."""
    usable: dict[ObjectKey, WarmImage] = {}
    unusable: dict[ObjectKey, InvalidObject] = {}
    for listed in lists:
        usable |= {key: listed.usable[key] for key in keys if key in listed.usable}
        unusable |= {key: listed.unusable[key] for key in keys if key in listed.unusable}
    return WarmImages(usable, unusable)


def _repositories(found: WarmImages) -> list[Repository]:
    """The repositories of those that policies made."""
    return list({repository_of(warmimage) for warmimage in found.usable.values() if warmimage.policy_label})
